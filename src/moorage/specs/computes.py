"""Compute targets: the instance types of their clusters, supported Kubernetes versions, connectivity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from moorage.errors import Invalid
from moorage.specs.instance_type import BUILT_IN, DEFAULT_NAME, InstanceType, parse
from moorage.specs.manifest import Manifest

# The window N-2 of Kubernetes 1.37 (spec/overview.md); any patch release of these.
SUPPORTED_MINORS = (35, 36, 37)

_COMPUTE_NAME = re.compile(r"^[A-Za-z]([-A-Za-z0-9_]{0,62}[A-Za-z0-9])?$")
_VERSION = re.compile(r"^v?(?P<major>\d+)\.(?P<minor>\d+)")


def known_instance_types(manifests: Iterable[Manifest]) -> dict[str, InstanceType]:
    """By name, from the InstanceType objects a cluster reports; always with the default one."""
    return {DEFAULT_NAME: BUILT_IN} | {found.name: found for found in map(parse, manifests)}


def choose_instance_type(name: str | None, known: Mapping[str, InstanceType], *, target: str) -> InstanceType:
    """The type asked for, or the default; Invalid with the list when the cluster has none of that name."""
    chosen = known.get(name or DEFAULT_NAME)
    if chosen is None:
        raise Invalid(
            f"{target}: the compute has no instance type '{name}'. It has: {', '.join(sorted(known))}. "
            "Name one of these, or ask IT operations to create it (kubectl apply an InstanceType).",
            code="UnknownInstanceType",
            target=target,
        )
    return chosen


def check_compute_name(name: str) -> None:
    if not _COMPUTE_NAME.match(name):
        raise Invalid(
            f"'{name}' is not a compute name. Use 1 to 64 letters, digits, '-' and '_', beginning with a letter and ending with a letter or digit.",
            target="name",
        )


def check_version(version: str, *, cluster: str) -> None:
    """Refuse a cluster outside the supported window; an unreadable version is refused too, since nothing is known about it."""
    found = _VERSION.match(version)
    lowest, highest = SUPPORTED_MINORS[0], SUPPORTED_MINORS[-1]
    if found and int(found["major"]) == 1 and lowest <= int(found["minor"]) <= highest:
        return
    raise Invalid(
        f"Cluster '{cluster}' runs Kubernetes {version or 'of an unknown version'}; supported are 1.{lowest} to 1.{highest}. "
        'Upgrade it, or attach on purpose with properties.properties.allowUnsupportedVersion: "true".',
        code="UnsupportedKubernetesVersion",
        target="properties.resourceId",
    )


class Connectivity(StrEnum):
    """How a cluster's agent stands: never heard, heard lately, or silent."""

    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    OFFLINE = "Offline"


def connectivity(last_heard: datetime | None, now: datetime, silence: timedelta) -> Connectivity:
    """Judge by when the agent last spoke; `silence` is how long it may be quiet."""
    if last_heard is None:
        return Connectivity.CONNECTING
    return Connectivity.OFFLINE if now - last_heard > silence else Connectivity.CONNECTED
