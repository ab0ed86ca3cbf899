"""The router with tokens: no workspace service anywhere, only public keys in its table."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))

from router_peers import replica, request_bytes, router, table

from moorage.identity.scoring import ScoringTokens
from moorage.specs.routing import Address, DeploymentRoute, EndpointRoute, RoutingTable, TokenTerms

HOUR = timedelta(hours=1)
SERVICE = ScoringTokens(Ed25519PrivateKey.generate(), lifetime=HOUR)
OTHERS = ScoringTokens(Ed25519PrivateKey.generate(), lifetime=HOUR)


def tokens_for(*replicas: Address, generation: int = 1, keys: tuple[str, ...] = SERVICE.public_keys) -> RoutingTable:
    """Endpoints `digits` and `letters` that take tokens, and a deployment each."""
    return RoutingTable(
        {
            name: EndpointRoute(
                name, (), {"blue": DeploymentRoute("blue", replicas)}, {"blue": 100}, tokens=TokenTerms(f"w/{name}", generation, keys)
            )
            for name in ("digits", "letters")
        }
    )


def token(name: str = "digits", generation: int = 1, *, of: ScoringTokens = SERVICE) -> str:
    return of.issue(f"w/{name}", generation).token


async def test_a_token_scores_and_stays_with_the_router() -> None:
    async with replica() as peer, router(tokens_for(peer.address)) as served:
        mine = token()
        for _ in range(3):
            assert (await served.ask(key=mine)).status == 200
        assert all("authorization" not in request.headers for request in peer.requests)
        assert mine not in str([request.headers for request in peer.requests])
        served.router._log.flush()
        assert mine not in served.sink.getvalue().decode() and mine.split(".")[2] not in served.sink.getvalue().decode()


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (None, 401, "The token is missing"),
        ("correct-key", 401, "not one of this endpoint's"),
        (token(of=OTHERS), 401, "not one of this endpoint's"),
        (token(generation=0), 401, "was revoked"),
        (ScoringTokens(Ed25519PrivateKey.generate(), lifetime=HOUR).issue("w/digits", 1).token, 401, "not one of"),
        (token("letters"), 403, "for another endpoint"),
        ("x" * 40_000, 401, "not one of this endpoint's"),
    ],
    ids=["none", "a key", "another service's", "revoked", "unknown signer", "another endpoint's", "huge"],
)
async def test_what_is_no_token_of_the_endpoint_reaches_no_replica(sent: str | None, status: int, said: str) -> None:
    async with replica() as peer, router(tokens_for(peer.address)) as served:
        got = await served.ask(key=sent)
        message = json.loads(got.body)["error"]["message"]
        assert (got.status, said in message) == (status, True), message
        assert (got.headers.get("www-authenticate") == "Bearer") is (status == 401)
        assert not peer.requests
        (line,) = served.log
        assert line["responseCode"] == status and (sent is None or sent[:40] not in str(line) + got.body.decode())


async def test_an_endpoint_with_keys_takes_no_tokens() -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        assert (await served.ask(key=token())).status == 401
        assert (await served.ask()).status == 200


async def test_a_token_ends_by_the_routers_own_clock_also_when_it_was_remembered() -> None:
    moment = datetime.now(UTC).timestamp()
    mine = token()
    async with replica() as peer, router(tokens_for(peer.address), now=lambda: moment) as served:
        assert (await served.ask(key=mine)).status == 200
        moment += HOUR.total_seconds() + 30
        assert (await served.ask(key=mine)).status == 200, "within the leeway for clocks that differ"
        moment += 60
        got = await served.ask(key=mine)
        assert got.status == 401 and b"has expired" in got.body


async def test_revoking_and_replacing_the_key_take_effect_with_the_next_table() -> None:
    async with replica() as peer, router(tokens_for(peer.address)) as served:
        old, new, theirs = token(), token(generation=2), token(generation=2, of=OTHERS)
        assert [(await served.ask(key=each)).status for each in (old, new, theirs)] == [200, 200, 401]
        served.router.replace(tokens_for(peer.address, generation=2))
        assert [(await served.ask(key=each)).status for each in (old, new, theirs)] == [401, 200, 401]
        served.router.replace(tokens_for(peer.address, generation=2, keys=(*OTHERS.public_keys, *SERVICE.public_keys)))
        assert [(await served.ask(key=each)).status for each in (old, new, theirs)] == [401, 200, 200]
        served.router.replace(tokens_for(peer.address, generation=2, keys=OTHERS.public_keys))
        assert [(await served.ask(key=each)).status for each in (old, new, theirs)] == [401, 401, 200]


async def test_a_table_that_changes_something_else_makes_nobody_verify_again() -> None:
    async with replica() as peer, router(tokens_for(peer.address)) as served:
        mine = token()
        assert (await served.ask(key=mine)).status == 200
        before = served.router._endpoints["digits"].denies
        served.router.replace(tokens_for(peer.address, ("127.0.0.1", 9)))
        assert served.router._endpoints["digits"].denies is before


async def test_a_header_with_letters_outside_ascii_is_refused_and_the_router_lives_on() -> None:
    async with replica() as peer, router(tokens_for(peer.address)) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(request_bytes(key="KEY").replace(b"Bearer KEY", b"Bearer \xff\xe9\x80.\xc3.\xa9"))
        assert b" 401 " in await reader.readuntil(b"\r\n")
        writer.close()
        assert (await served.ask(key=token())).status == 200
