"""A clock that is set, forward or back: what was issued before is judged by its end alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage import clock
from moorage.embedded.tokens import TokenIssuer
from moorage.errors import Unauthenticated
from moorage.identity.roles import Role
from moorage.identity.tokens import Tokens, Workload


class Hand:
    """A clock whose hands a test moves."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment


def test_user_and_workload_tokens_outlive_a_clock_set_back_and_end_when_their_time_is_over() -> None:
    hand = Hand(datetime(2026, 11, 22, 12, tzinfo=UTC))
    tokens = Tokens(Ed25519PrivateKey.generate(), now=hand)
    user = tokens.issue_user("me", {"/": Role.OWNER}, timedelta(hours=1))
    pod, _ = tokens.issue_workload("jobs/j", read=["c/in"], write=["c/out"], lifetime=timedelta(hours=1))
    hand.moment -= timedelta(hours=3)
    assert tokens.verify_user(user).name == "me"
    reader = tokens.verify(pod)
    assert isinstance(reader, Workload) and reader.read == ("c/in",)
    hand.moment += timedelta(hours=5)
    for verify, token in ((tokens.verify_user, user), (tokens.verify, pod)):
        with pytest.raises(Unauthenticated, match="expired"):
            verify(token)


def test_a_service_accounts_token_made_by_a_clock_that_was_ahead_is_taken() -> None:
    ahead = Hand(clock.now() + timedelta(hours=3))
    issuer = TokenIssuer(Ed25519PrivateKey.generate(), "admin", clock=ahead)
    grant = issuer.issue("azureml", "gateway", "uid-1")
    assert issuer.authenticate(grant.token).name == "system:serviceaccount:azureml:gateway"


def test_a_service_accounts_token_whose_time_is_over_is_refused() -> None:
    behind = Hand(clock.now() - timedelta(hours=3))
    issuer = TokenIssuer(Ed25519PrivateKey.generate(), "admin", clock=behind)
    with pytest.raises(Unauthenticated):
        TokenIssuer(issuer._key, "admin").authenticate(issuer.issue("azureml", "gateway", "uid-1").token)
