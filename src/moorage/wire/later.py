"""What this version stores and answers but does not run yet. One table makes the errors, the states and the page that lists them.

Single fields that nothing acts on stand in `wire.idle`.

Nothing is accepted silently: a job of these kinds ends at once as Failed with the reason, a schedule is kept disabled, and whatever would start work is
refused. Their bodies are read by `wire.kept`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from moorage.errors import Invalid

CODE = "NotYetImplemented"


@dataclass(frozen=True, slots=True)
class Later:
    """A kind of resource that comes with an issue of its own.

    Attributes:
        what: its name in a sentence, plural.
        becomes: what happens when it is created now.
        instead: what to do meanwhile.
    """

    what: str
    becomes: str
    instead: str

    @property
    def message(self) -> str:
        return f"This version does not run {self.what} yet. {self.instead}"


_ENDS = "stored and answered as sent; ends at once as `Failed`, with this code and the reason in its status, stream and run history"
# Job types by `jobType`. Their `becomes` is what a PUT does.
STORED_JOBS: Mapping[str, Later] = {
    "Sweep": Later("sweep jobs", _ENDS, "Submit a command job for each setting."),
    "Pipeline": Later("pipeline jobs", _ENDS, "Submit its steps as command jobs; one's output can be another's input."),
}
_REFUSED = "refused, nothing stored"
REFUSED_JOBS: Mapping[str, Later] = {
    "AutoML": Later("AutoML jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Spark": Later("Spark jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Labeling": Later("labeling jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "FineTuning": Later("fine-tuning jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Distillation": Later("distillation jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Base": Later("jobs without a type", _REFUSED, "Submit a command job (jobType: Command)."),
}
BATCH_ENDPOINT = Later("batch endpoints", "stored and answered as sent", "Score the data in a command job, or serve the model online.")
BATCH_DEPLOYMENT = Later("batch deployments", "stored and answered as sent", BATCH_ENDPOINT.instead)
COMPONENT = Later("components by themselves", "stored and answered as sent; only pipelines use them", "Submit a command job.")
BATCH_INVOKE = Later("batch endpoints (invoke)", "refused", BATCH_ENDPOINT.instead)
SCHEDULE = Later("schedules", "stored, always disabled", "Submit the job from a scheduler of your own (cron, CI).")
SCHEDULE_RUN = Later("schedules (enable, trigger)", "refused", SCHEDULE.instead)

JOB_SERVICES = Later(
    "services inside jobs (SSH, JupyterLab, VS Code, TensorBoard)",
    "stored and answered as sent; none is started, `show_services` says so",
    "Write to ./outputs, and download it while the job runs.",
)

# In the order of the page.
ALL: Mapping[str, Later] = {
    **{f"job type `{kind}`": later for kind, later in {**STORED_JOBS, **REFUSED_JOBS}.items()},
    "component": COMPONENT,
    "batch endpoint": BATCH_ENDPOINT,
    "batch deployment": BATCH_DEPLOYMENT,
    "batch endpoint, invoke": BATCH_INVOKE,
    "schedule": SCHEDULE,
    "schedule, enable or trigger": SCHEDULE_RUN,
}


# What scripts for the original ask for below a workspace and this service has not at all: a pattern of the rest of the path, and what to do.
_ELSEWHERE: tuple[tuple[str, str], ...] = (
    (r"connections(/|$)", "Connections are not supported yet; pass secrets through the cluster."),
    (r"featurestoreEntities(/|$)|featuresets(/|$)", "Feature stores are not supported yet."),
    (r"serverlessEndpoints(/|$)", "Models are served by online endpoints of a cluster of your own."),
    (r"(marketplaceSubscriptions|capabilityHosts)(/|$)", "It is part of the original's own cloud; serve models with online endpoints."),
    (r"indexes(/|$)", "Indexes are not supported; register their files as data."),
    (r"models/[^/]+/versions/[^/]+/package$", "Models are not packaged; deploy the model with an environment."),
    (r"(listKeys|resyncKeys)$", "A workspace has no keys of its own; signed links of its storage come from its datastores."),
    (r"diagnose$", "Ask the cluster's extension instead: moorage extension show."),
    (r"outboundRules(/|$)|provisionManagedNetwork$", "Networks are the cluster's; set network policies there."),
    (r"computes/[^/]+/(start|stop|restart|resize)$", "Machines belong to the cluster; they are not started, stopped or resized here."),
)


def elsewhere(path: str) -> str:
    """What to do in place of what has no address here, as the end of a sentence's line; "" when nothing is known about it."""
    found = re.search(r"/workspaces/[^/]+/(?P<rest>.+)$", path, re.IGNORECASE)
    rest = found["rest"] if found else ""
    return next((f" {instead}" for pattern, instead in _ELSEWHERE if re.match(pattern, rest, re.IGNORECASE)), "")


def refusal(later: Later, *, target: str) -> Invalid:
    """The error of what is not even stored, or would start work."""
    return Invalid(f"{target}: {later.message}", code=CODE, target=target)
