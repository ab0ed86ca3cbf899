"""The routing table: which keys or tokens open which endpoint, how its traffic is split, where its replicas are and what they bear.

Made by `moorage.routing.render`, obeyed by `moorage.router`; the seam where another data plane would go in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class DeploymentRoute:
    """One deployment's replicas and limits.

    Args:
        name: deployment name within the endpoint.
        replicas: addresses that are ready, in a stable order.
        concurrency: requests one replica gets at once.
        queue_wait: longest wait for a free replica.
        timeout: longest time from dispatch to the end of the answer.
    """

    name: str
    replicas: tuple[Address, ...] = ()
    concurrency: int = 1
    queue_wait: timedelta = timedelta(milliseconds=500)
    timeout: timedelta = timedelta(milliseconds=5000)


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """Which tokens open an endpoint. Nothing of it is secret.

    Args:
        audience: whom a token has to be for: the endpoint's ARM id in lower case.
        generation: tokens of earlier ones are revoked. Milliseconds since 1970 of the last revocation, so that an endpoint
            made again under its name does not take the tokens of the former one.
        public_keys: Ed25519 keys (RFC 8032) whose signatures count, 32 bytes each in base64url.
    """

    audience: str
    generation: int
    public_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """One endpoint.

    Args:
        name: as in its scoring URI.
        key_digests: SHA-256 of each accepted key, 32 bytes each; none means that no key is accepted.
        deployments: by name.
        traffic: percentage by deployment name; names without a deployment and zeroes are left out.
        mirror: percentage of the requests that the one deployment named gets copies of; it has no traffic.
        tokens: which tokens are accepted; None: none at all.
    """

    name: str
    key_digests: tuple[bytes, ...] = ()
    deployments: Mapping[str, DeploymentRoute] = field(default_factory=dict)
    traffic: Mapping[str, int] = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    tokens: TokenTerms | None = None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every endpoint by name. Whole tables replace each other; there is no partial change."""

    endpoints: Mapping[str, EndpointRoute] = field(default_factory=dict)
