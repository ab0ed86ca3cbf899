"""A job's course, as it stands in its resource's state."""

from __future__ import annotations

from moorage.specs.manifest import Manifest
from moorage.store import Resource
from moorage.wire.runs import JobState


def state_of(job: Resource) -> JobState:
    return course(job.state)


def course(state: Manifest) -> JobState:
    """What a job's state says of it."""
    return JobState.model_validate(state.get("run") or {})


def with_state(job: Resource, state: JobState) -> Manifest:
    """The resource's `state` with the job's course replaced."""
    return {**job.state, "run": state.model_dump(mode="json", by_alias=True)}
