"""Why a controller of Kubernetes could not create a pod, in its own words, and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from moorage.specs.condition import find
from moorage.specs.manifest import Manifest

# All that `Refusal.reason` may be.
REASONS = frozenset(
    {
        "AdmissionFailed", "AdmissionRefused", "LimitRangeRefused", "PodRefused", "PodSecurityRefused", "QuotaExceeded", "QuotaRefused",
        "ServiceAccountMissing",
    }
)  # fmt: skip
# The words before the reason: `Error creating: pods "NAME-x7k2p" is forbidden: `. The name is another one at every try.
_PREFIX = re.compile(r'^(?:\(combined from similar events\): )?(?:Error creating: )?(?:[Pp]ods? "[^"]*" (?:is forbidden: )?)?')
_NAMES = re.compile(r'(?<=[Pp]od )"[^"]*"|(?<=pods )"[^"]*"')
_SECURITY = re.compile(r'^violates PodSecurity "([^":]+)')
_LIMIT_RANGE = re.compile(r"^\[?(?:maximum|minimum) .* usage per |limit to request ratio per ")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason in CamelCase; what the cluster said, followed by the remedy where one is known."""

    reason: str
    message: str


def of_events(events: Iterable[Manifest], uid: str, *, since: str = "") -> Refusal | None:
    """The last refusal told about the object `uid`, at `since` (RFC 3339) or later."""
    told = [event for event in events if event.get("reason") == "FailedCreate" and (event.get("involvedObject") or {}).get("uid") == uid]
    last = max(told, key=_time, default=None)
    return explained(str(last.get("message") or "")) if last is not None and _time(last) >= since else None


def of_deployment(deployment: Manifest) -> Refusal | None:
    """What a Deployment's condition ReplicaFailure says."""
    condition = find((deployment.get("status") or {}).get("conditions"), "ReplicaFailure")
    if condition is None or condition.get("status") != "True":
        return None
    return explained(str(condition.get("message") or condition.get("reason") or ""))


def explained(words: str) -> Refusal:
    """A controller's words with the remedy."""
    said = _NAMES.sub('"..."', _PREFIX.sub("", words).strip()) or "no reason was given."
    reason, remedy = _remedy(said)
    sentence = said if said.endswith((".", "!")) else f"{said}."
    return Refusal(reason, f"The cluster refuses to create the pod: {sentence}{f' {remedy}' if remedy else ''}")


def _remedy(said: str) -> tuple[str, str]:
    if security := _SECURITY.match(said):
        return "PodSecurityRefused", (
            f"Where this standard is not enforced by the namespace's own label, Moorage cannot see it: label the namespace "
            f"pod-security.kubernetes.io/enforce={security[1]} and submit again, or allow the level baseline there."
        )
    if said.startswith("exceeded quota"):
        return (
            "QuotaExceeded",
            "It is tried again and goes on when there is room: end other workloads, choose a smaller instance type, or raise the ResourceQuota.",
        )
    if said.startswith("failed quota"):
        return (
            "QuotaRefused",
            "The ResourceQuota limits something that pods of Moorage do not name: take it out of the quota, or give it a default with a LimitRange.",
        )
    if _LIMIT_RANGE.search(said):
        return "LimitRangeRefused", "Choose an instance type within the namespace's LimitRange, or change the LimitRange."
    if "failed calling webhook" in said:
        return "AdmissionFailed", "A webhook of the cluster does not answer; it is tried again."
    if "denied the request" in said or "denied request" in said or "security context constraint" in said:
        return "AdmissionRefused", "Ask whoever runs that policy to admit Moorage's pods in this namespace."
    if "serviceaccount" in said and "not found" in said:
        return "ServiceAccountMissing", "It comes with every namespace and is made anew when it is deleted; it is tried again."
    return "PodRefused", "It is tried again."


def _time(event: Manifest) -> str:
    times = (
        event.get("lastTimestamp"),
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    # Whole seconds, as creation times have them: texts of one form compare like times.
    return next((f"{str(time)[:19]}Z" for time in times if time), "")
