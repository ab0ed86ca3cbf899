"""Online endpoints and deployments: names, the traffic split, and the defaults of the original for Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from enum import StrEnum

from moorage.errors import Conflict, Invalid

# The original's for Kubernetes deployments (contract/router.md).
REQUEST_TIMEOUT = timedelta(seconds=5)
QUEUE_WAIT = timedelta(milliseconds=500)
CONCURRENT_REQUESTS = 1
# Percent; the managed service's limit, as are one mirrored deployment and no live traffic for it.
MIRROR_LIMIT = 50
SCORING_PATH = "/api/v1/endpoint/{name}/score"
SWAGGER_PATH = "/api/v1/endpoint/{name}/swagger.json"

_ENDPOINT_NAME = re.compile(r"^[A-Za-z][-A-Za-z0-9]{1,30}[A-Za-z0-9]$")
_DEPLOYMENT_NAME = re.compile(r"^[A-Za-z][-A-Za-z0-9]{1,30}[A-Za-z0-9]$")


class ProvisioningState(StrEnum):
    CREATING = "Creating"
    UPDATING = "Updating"
    DELETING = "Deleting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


class AuthMode(StrEnum):
    KEY = "Key"
    AML_TOKEN = "AMLToken"
    AAD_TOKEN = "AADToken"


def check_endpoint_name(name: str) -> None:
    if not _ENDPOINT_NAME.match(name):
        raise Invalid(
            f"'{name}' is not an endpoint name. Use 3 to 32 letters, digits and '-', beginning with a letter and ending with a letter or digit.",
            target="name",
        )


def check_deployment_name(name: str) -> None:
    if not _DEPLOYMENT_NAME.match(name):
        raise Invalid(
            f"'{name}' is not a deployment name. Use 3 to 32 letters, digits and '-', beginning with a letter and ending with a letter or digit.",
            target="name",
        )


def check_traffic(traffic: Mapping[str, int], mirror: Mapping[str, int], deployments: Collection[str]) -> None:
    """Refuse a split that names an unknown deployment or does not add up.

    Args:
        traffic: percentage by deployment. All zero or empty: nobody gets any; else it must add up to 100.
        mirror: percentage of the traffic that is copied to one deployment; at most 50.
        deployments: names of the endpoint's deployments (compared without case: clients lower them).
    """
    known = {name.lower() for name in deployments}
    for field, split, most in (("traffic", traffic, 100), ("mirrorTraffic", mirror, MIRROR_LIMIT)):
        for name, share in split.items():
            where = f"properties.{field}.{name}"
            if share and name.lower() not in known:
                listed = ", ".join(sorted(deployments)) or "none yet"
                raise Invalid(
                    f"{where}: the endpoint has no deployment '{name}' (it has: {listed}). Create it before giving it traffic.",
                    target=where,
                )
            if not 0 <= share <= most:
                raise Invalid(f"{where}: {share} is not a percentage between 0 and {most}.", target=where)
    total = sum(traffic.values())
    if total not in (0, 100):
        given = ", ".join(f"{name}: {share}" for name, share in traffic.items())
        raise Invalid(
            f"properties.traffic must add up to 100 (or 0 to stop all traffic), not {total} ({given}).", target="properties.traffic"
        )
    mirrored = [name for name, share in mirror.items() if share]
    if len(mirrored) > 1:
        raise Invalid(
            f"properties.mirrorTraffic: only one deployment can be mirrored to, not {', '.join(mirrored)}.",
            target="properties.mirrorTraffic",
        )
    for name in mirrored:
        if _share(name, traffic):
            raise Invalid(
                f"properties.mirrorTraffic.{name}: a deployment gets live traffic or mirrored traffic, not both. "
                f"Set its traffic to 0, or its share of mirrorTraffic (online-endpoint update --mirror-traffic '{name}=0').",
                target=f"properties.mirrorTraffic.{name}",
            )


def _share(deployment: str, split: Mapping[str, int]) -> int:
    return next((share for name, share in split.items() if name.lower() == deployment.lower()), 0)


def check_no_traffic(deployment: str, traffic: Mapping[str, int], mirror: Mapping[str, int]) -> None:
    """Refuse to delete a deployment that is still scored on, as Azure does, or that copies go to."""
    if share := _share(deployment, mirror):
        raise Conflict(
            f"Deployment '{deployment}' still gets copies of {share} % of the endpoint's requests. End that first "
            f"(online-endpoint update --mirror-traffic '{deployment}=0').",
            target="mirrorTraffic",
        )
    if share := _share(deployment, traffic):
        raise Conflict(
            f"Deployment '{deployment}' still gets {share} % of the endpoint's traffic. Set its traffic to 0 first "
            f"(online-endpoint update --traffic '{deployment}=0 OTHER=100').",
            target="traffic",
        )
