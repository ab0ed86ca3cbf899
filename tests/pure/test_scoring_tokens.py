"""Tokens of endpoints: what the service signs, what a router lets in, and that nothing else opens anything."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Forbidden, Unauthenticated
from moorage.identity.roles import Role
from moorage.identity.scoring import LONGEST, ScoringTokens, Verifier
from moorage.identity.tokens import Tokens
from moorage.router.authentication import VerifiedTokens, check_of
from moorage.specs.routing import EndpointRoute, TokenTerms

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AUDIENCE = "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/w/onlineendpoints/digits"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SERVICE = ScoringTokens(KEY, lifetime=HOUR, now=lambda: NOON)
TERMS = TokenTerms(AUDIENCE, 7, SERVICE.public_keys)
TOKEN = SERVICE.issue(AUDIENCE, 7).token


def at(moment: datetime, token: str = TOKEN, terms: TokenTerms = TERMS) -> float:
    return Verifier(terms).verify(token, moment.timestamp())


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_token_opens_its_endpoint_for_as_long_as_it_lives() -> None:
    issued = SERVICE.issue(AUDIENCE, 7)
    assert (issued.expires, issued.refresh_after) == (NOON + HOUR, NOON + HOUR / 2)
    assert at(NOON) == (NOON + HOUR + timedelta(seconds=60)).timestamp()


def test_any_reader_of_jwt_takes_it_for_one() -> None:
    claims = jwt.decode(TOKEN, KEY.public_key(), algorithms=["EdDSA"], audience=AUDIENCE, issuer="moorage", options={"verify_exp": False})
    assert claims == {"iss": "moorage", "aud": AUDIENCE, "gen": 7, "iat": int(NOON.timestamp()), "exp": int((NOON + HOUR).timestamp())}


@pytest.mark.parametrize("skew", [timedelta(hours=-30), timedelta(seconds=-90), HOUR, HOUR + timedelta(seconds=59)])
def test_a_clock_that_is_behind_or_a_minute_ahead_refuses_no_good_token(skew: timedelta) -> None:
    assert at(NOON + skew)


def test_a_token_that_has_ended_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unauthenticated, match="has expired") as refused:
        at(NOON + HOUR + timedelta(seconds=60))
    assert refused.value.code == "TokenExpired"


def test_a_good_token_of_another_endpoint_is_forbidden_and_an_ended_one_says_nothing() -> None:
    elsewhere = SERVICE.issue(AUDIENCE.replace("digits", "letters"), 7).token
    with pytest.raises(Forbidden, match="for another endpoint"):
        at(NOON, elsewhere)
    with pytest.raises(Unauthenticated, match="has expired"):
        at(NOON + 2 * HOUR, elsewhere)


def test_earlier_generations_are_revoked_and_a_later_one_need_not_wait_for_the_cluster() -> None:
    with pytest.raises(Unauthenticated, match="was revoked"):
        at(NOON, SERVICE.issue(AUDIENCE, 6).token)
    assert at(NOON, SERVICE.issue(AUDIENCE, 8).token)


def test_while_a_key_is_replaced_tokens_of_both_are_good_and_afterwards_only_of_the_new_one() -> None:
    successor = ScoringTokens(OTHER, [KEY.public_key()], lifetime=HOUR, now=lambda: NOON)
    meanwhile = TokenTerms(AUDIENCE, 7, successor.public_keys)
    assert len(meanwhile.public_keys) == 2
    assert at(NOON, TOKEN, meanwhile) and at(NOON, successor.issue(AUDIENCE, 7).token, meanwhile)
    after = TokenTerms(AUDIENCE, 7, ScoringTokens(OTHER, lifetime=HOUR).public_keys)
    with pytest.raises(Unauthenticated, match="its signing key has been replaced"):
        at(NOON, TOKEN, after)


HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")
CLAIMS = json.loads(base64.urlsafe_b64decode(PAYLOAD + "=="))
KEY_ID = json.loads(base64.urlsafe_b64decode(HEADER + "=="))["kid"]
# The last letter of 64 bytes has four bits too many: sixteen letters that a lax reader takes for the same.
RESPELT = {"A": "B", "Q": "R", "g": "h", "w": "x"}
FORGED = {
    "nothing": "",
    "one part": "abc",
    "a key": "correct-key",
    "two parts": f"{HEADER}.{PAYLOAD}",
    "no signature": f"{HEADER}.{PAYLOAD}.",
    "four parts": f"{TOKEN}.{SIGNATURE}",
    "alg none": f"{part({'alg': 'none', 'kid': KEY_ID, 'typ': 'JWT'})}.{PAYLOAD}.",
    "alg none, header as ours otherwise": jwt.encode(CLAIMS, None, algorithm="none", headers={"kid": KEY_ID}),
    "the public key as a shared secret": jwt.encode(
        CLAIMS, KEY.public_key().public_bytes_raw(), algorithm="HS256", headers={"kid": KEY_ID}
    ),
    "another key under our key's id": jwt.encode(CLAIMS, OTHER, algorithm="EdDSA", headers={"kid": KEY_ID}),
    "another key under its own id": ScoringTokens(OTHER, lifetime=HOUR, now=lambda: NOON).issue(AUDIENCE, 7).token,
    "our key, no key id": jwt.encode(CLAIMS, KEY, algorithm="EdDSA"),
    "our key, a header with more in it": jwt.encode(CLAIMS, KEY, algorithm="EdDSA", headers={"kid": KEY_ID, "crit": ["x"], "x": 1}),
    "our key, a key of its own in the header": jwt.encode(CLAIMS, KEY, algorithm="EdDSA", headers={"kid": KEY_ID, "jwk": {"x": "AAAA"}}),
    "other claims under an old signature": f"{HEADER}.{part({**CLAIMS, 'exp': 2**40})}.{SIGNATURE}",
    "padding": f"{TOKEN}==",
    "another spelling of the signature": f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}{RESPELT[SIGNATURE[-1]]}",
    "a line end": f"{HEADER}.{PAYLOAD}.{SIGNATURE[:40]}\n{SIGNATURE[40:]}",
    "letters that are not ASCII": f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}é",
    "huge": TOKEN + "A" * 100_000,
    "huge and well formed": f"{HEADER}.{part(b'[' * 50_000)}.{SIGNATURE}",
    "a user's token": Tokens(KEY, now=lambda: NOON).issue_user("ann", {"/": Role.OWNER}, HOUR, audience=AUDIENCE),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_what_the_service_did_not_sign_as_it_stands_is_refused_and_never_repeated(forged: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        at(NOON, forged)
    assert refused.value.code == "InvalidToken"
    assert len(forged) < 4 or forged not in str(refused.value)
    assert SIGNATURE[:20] not in str(refused.value)


def test_claims_that_are_not_ours_are_refused_although_our_key_signed_them() -> None:
    for claims in ({}, [], {**CLAIMS, "exp": "soon"}, {**CLAIMS, "gen": None}, "text"):
        signed = f"{HEADER}.{part(claims)}"
        with pytest.raises(Unauthenticated, match="not one of this endpoint's"):
            at(NOON, f"{signed}.{part(KEY.sign(signed.encode()))}")


@given(st.one_of(st.text(max_size=400), st.lists(st.sampled_from([HEADER, PAYLOAD, SIGNATURE, ".", "=", "A"]), max_size=8).map("".join)))
def test_whatever_is_sent_ends_in_a_refusal(text: str) -> None:
    if text == TOKEN:
        return
    with pytest.raises(Unauthenticated):
        at(NOON, text)


@given(st.integers(0, len(TOKEN) - 1), st.characters(max_codepoint=0xFF))
def test_no_letter_of_a_token_can_be_changed(position: int, letter: str) -> None:
    changed = TOKEN[:position] + letter + TOKEN[position + 1 :]
    if changed != TOKEN:
        with pytest.raises(Unauthenticated):
            at(NOON, changed)


@given(st.text(min_size=1, max_size=300), st.integers(0, 2**53))
def test_every_token_issued_opens_what_it_was_issued_for(audience: str, generation: int) -> None:
    token = SERVICE.issue(audience, generation).token
    if len(token) <= LONGEST:
        assert at(NOON, token, TokenTerms(audience, generation, SERVICE.public_keys))


def test_a_public_key_that_is_none_lets_nobody_in_and_breaks_nothing() -> None:
    assert at(NOON, TOKEN, TokenTerms(AUDIENCE, 7, ("nonsense", "", "é", *SERVICE.public_keys)))
    with pytest.raises(Unauthenticated):
        at(NOON, TOKEN, TokenTerms(AUDIENCE, 7, ("nonsense",)))


class Clock:
    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


def route(terms: TokenTerms | None = TERMS) -> EndpointRoute:
    return EndpointRoute("digits", tokens=terms)


@pytest.mark.parametrize(
    ("header", "status", "said"),
    [
        (f"Bearer {TOKEN}", None, ""),
        (f"bearer   {TOKEN} ", None, ""),
        ("", 401, "The token is missing"),
        ("Bearer", 401, "The token is missing"),
        ("Bearer ", 401, "The token is missing"),
        (f"Basic {TOKEN}", 401, "The token is missing"),
        (TOKEN, 401, "The token is missing"),
        ("Bearer correct-key", 401, "not one of this endpoint's"),
        (f"Bearer {SERVICE.issue(AUDIENCE, 1).token}", 401, "was revoked"),
        (f"Bearer {SERVICE.issue(AUDIENCE + '2', 7).token}", 403, "for another endpoint"),
    ],
)
def test_who_is_let_in_and_what_the_others_are_told(header: str, status: int | None, said: str) -> None:
    denied = check_of(route(), VerifiedTokens(), Clock())(header)
    assert (denied.status if denied else None) == status
    assert denied is None or said in denied.message


def test_a_verified_token_is_remembered_until_it_ends_and_bad_ones_never() -> None:
    clock, verified = Clock(), VerifiedTokens()
    check = check_of(route(), verified, clock)
    assert check(f"Bearer {TOKEN}") is None and check(f"Bearer {TOKEN}") is None and len(verified) == 1
    for forged in FORGED.values():
        assert check(f"Bearer {forged}") is not None
    assert len(verified) == 1
    clock.now += HOUR.total_seconds() + 61
    denied = check(f"Bearer {TOKEN}")
    assert denied is not None and "has expired" in denied.message


def test_what_was_remembered_under_other_terms_is_looked_at_again() -> None:
    verified = VerifiedTokens()
    assert check_of(route(), verified, Clock())(f"Bearer {TOKEN}") is None
    for terms, said in (
        (TokenTerms(AUDIENCE, 8, SERVICE.public_keys), "revoked"),
        (TokenTerms(AUDIENCE, 7, ScoringTokens(OTHER, lifetime=HOUR).public_keys), "replaced"),
        (TokenTerms("another", 7, SERVICE.public_keys), "another endpoint"),
    ):
        denied = check_of(route(terms), verified, Clock())(f"Bearer {TOKEN}")
        assert denied is not None and said in denied.message


def test_memory_of_tokens_is_bounded_and_the_oldest_go_first() -> None:
    verified = VerifiedTokens(most=3)
    for number in range(10):
        verified.keep(bytes([number]), TERMS, float(number + 1))
    assert len(verified) == 3
    assert [verified.until(bytes([number]), TERMS) for number in range(6, 10)] == [0.0, 8.0, 9.0, 10.0]
    verified.keep(bytes([7]), TERMS, 50.0)
    assert len(verified) == 3 and verified.until(bytes([7]), TERMS) == 50.0


def test_an_endpoint_with_neither_keys_nor_terms_lets_nobody_in() -> None:
    denied = check_of(EndpointRoute("digits"), VerifiedTokens(), Clock())(f"Bearer {TOKEN}")
    assert denied is not None and denied.status == 401
