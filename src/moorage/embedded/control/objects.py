"""Readings of manifests that several controllers share: owners, conditions, deletion, times, selectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from moorage.clock import parse_rfc3339
from moorage.embedded.selectors import LabelTerm, from_label_selector
from moorage.kube.metadata import controller_of, uid_of
from moorage.specs.manifest import Manifest


def revision_of(manifest: Manifest) -> int:
    """The resource version as a number; the embedded API counts them up over all kinds."""
    text = manifest["metadata"].get("resourceVersion") or "0"
    return int(text) if text.isdigit() else 0


def annotations_of(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("annotations") or {}


def finalizers_of(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or ())


def is_controlled_by(manifest: Manifest, owner: Manifest) -> bool:
    reference = controller_of(manifest)
    return reference is not None and reference.get("uid") == uid_of(owner)


def condition(manifest_or_status: Mapping[str, Any], type: str) -> Manifest | None:
    """The condition of that type, of a manifest or of a status alone."""
    status = manifest_or_status.get("status", manifest_or_status) if "metadata" in manifest_or_status else manifest_or_status
    for found in (status or {}).get("conditions") or ():
        if found.get("type") == type:
            result: Manifest = found
            return result
    return None


def is_true(manifest_or_status: Mapping[str, Any], type: str) -> bool:
    found = condition(manifest_or_status, type)
    return found is not None and found.get("status") == "True"


def created_at(manifest: Manifest, default: datetime) -> datetime:
    return time_of(manifest["metadata"].get("creationTimestamp"), default)


def time_of(text: Any, default: datetime) -> datetime:
    """A timestamp; `default` where there is none or it cannot be read (a user may have written it)."""
    if not isinstance(text, str):
        return default
    try:
        return parse_rfc3339(text)
    except ValueError:
        return default


def until(moment: datetime, now: datetime) -> timedelta:
    """How long to wait for `moment`, rounded up to a whole second because stored times are cut to one."""
    return max(timedelta(seconds=1), moment - now)


def selects(selector: Sequence[LabelTerm], labels: Mapping[str, str]) -> bool:
    return all(term.matches(labels) for term in selector)


def selector_of(manifest: Manifest) -> tuple[LabelTerm, ...]:
    """The object's `spec.selector` (a LabelSelector). An empty one selects nothing in a controller, see `claim`."""
    return from_label_selector(manifest["spec"].get("selector"))


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def short_hash(*parts: str, length: int = 10) -> str:
    """A hash in Kubernetes' alphabet for generated names (no vowels, so that no words come out)."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big")
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(alphabet))
        letters.append(alphabet[index])
    return "".join(letters)
