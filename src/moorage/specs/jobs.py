"""Jobs: their states, how a state may change, and the references inside texts of theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from moorage.errors import Invalid


class JobStatus(StrEnum):
    """The API's states of a job."""

    NOT_STARTED = "NotStarted"
    STARTING = "Starting"
    PROVISIONING = "Provisioning"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    CANCEL_REQUESTED = "CancelRequested"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    NOT_RESPONDING = "NotResponding"
    PAUSED = "Paused"


TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED})


def advance(current: JobStatus, phase: str, *, logs_complete: bool) -> JobStatus:
    """The state after a report of a TrainingJob's phase.

    A terminal state is kept for ever, and is entered only once the logs are complete (clients stop reading logs at it): until then the job is
    Finalizing. A request to cancel is forgotten by nothing but the end.

    Args:
        current: the state so far.
        phase: `status.phase` of the TrainingJob; empty while the operator has not looked at it.
        logs_complete: every log chunk of the job is stored.
    """
    if current in TERMINAL:
        return current
    if phase not in JobStatus.__members__.values():
        return current
    reported = JobStatus(phase)
    if reported in TERMINAL:
        return reported if logs_complete else _unless_canceling(current, JobStatus.FINALIZING)
    return _unless_canceling(current, reported)


def _unless_canceling(current: JobStatus, following: JobStatus) -> JobStatus:
    return current if current is JobStatus.CANCEL_REQUESTED else following


_JOB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$")
_REFERENCE = re.compile(r"\$\{\{\s*(?P<path>[^}]*?)\s*\}\}")


def check_job_name(name: str) -> None:
    if not _JOB_NAME.match(name):
        raise Invalid(
            f"'{name}' is not a job name. Use 1 to 255 letters, digits, '-', '_' and '.', beginning with a letter or digit.", target="name"
        )


def references(command: str) -> Iterator[str]:
    """The insides of every `${{...}}` in the text, in order: `inputs.data`."""
    for found in _REFERENCE.finditer(command):
        yield found["path"]
