"""What the client makes of refusals that do not come as ARM's JSON."""

from __future__ import annotations

import httpx2

from moorage.cli.exits import Exit, exit_code
from moorage.client.transport import error_of
from moorage.errors import Invalid

FULL = "<?xml version='1.0' encoding='utf-8'?>\n<Error><Code>InsufficientStorage</Code><Message>The disk is full &amp; stays so.</Message></Error>"


def test_a_full_disk_told_in_the_words_of_blob_storage_is_read_and_is_not_the_users_input() -> None:
    error = error_of(httpx2.Response(413, text=FULL))
    assert (error.code, error.message) == ("InsufficientStorage", "The disk is full & stays so.")
    assert exit_code(error) == Exit.FAILED


def test_a_refusal_in_plain_words_is_shown_as_it_is() -> None:
    error = error_of(httpx2.Response(400, text="no such thing"))
    assert isinstance(error, Invalid) and error.message == "no such thing"
