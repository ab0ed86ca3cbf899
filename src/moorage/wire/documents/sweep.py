"""The sweepJob document, and what a sweep node of a pipeline shares with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents import job
from moorage.wire.documents.assets import ENVIRONMENT, REFERENCE
from moorage.wire.documents.references import parse_reference
from moorage.wire.documents.shapes import Chosen, Either, ListOf, MapOf, Number, Plain, Reading, Record, Shape, Text, choices
from moorage.wire.documents.source import Node, Path
from moorage.wire.documents.uses import Resolved, Role, Use, asset_use, compute_id

_ANY = Number(whole=False)
_TYPED: dict[str, Shape] = {"type": Text()}
_UNIFORM = Record({**_TYPED, "min_value": _ANY, "max_value": _ANY}, required=("min_value", "max_value"))
_QUNIFORM = Record({**_TYPED, "min_value": _ANY, "max_value": _ANY, "q": _ANY}, required=("min_value", "max_value", "q"))
_NORMAL = Record({**_TYPED, "mu": _ANY, "sigma": _ANY}, required=("mu", "sigma"))
_QNORMAL = Record({**_TYPED, "mu": _ANY, "sigma": _ANY, "q": _ANY}, required=("mu", "sigma", "q"))


class _Option:
    """The shape of one choice: anything, or names to values, some of which may be drawn themselves."""

    says = "anything; in a mapping also distributions"

    def read(self, node: Node, path: Path, into: Reading) -> Any:
        if not isinstance(node.value, dict):
            return Plain().read(node, path, into)
        return {name: _drawn(child).read(child, (*path, name), into) for name, child in node.value.items()}


def _drawn(node: Node) -> Shape:
    return Chosen("type", _SPACES) if isinstance(node.value, dict) and "type" in node.value else Plain()


_SPACES = {
    "choice": Record({**_TYPED, "values": ListOf(_Option())}, required=("values",)),
    "uniform": _UNIFORM,
    "loguniform": _UNIFORM,
    "quniform": _QUNIFORM,
    "qloguniform": _QUNIFORM,
    "normal": _NORMAL,
    "lognormal": _NORMAL,
    "qnormal": _QNORMAL,
    "qlognormal": _QNORMAL,
    "randint": Record({**_TYPED, "upper": Number()}, required=("upper",)),
}
# The order in which the wire has a distribution's parameters.
_PARAMETERS = ("values", "min_value", "max_value", "mu", "sigma", "q", "upper")
_WAIT: dict[str, Shape] = {"evaluation_interval": Number(0), "delay_evaluation": Number(0)}
_POLICIES = {
    "bandit": Record({**_TYPED, **_WAIT, "slack_factor": Number(0, whole=False), "slack_amount": Number(0, whole=False)}),
    "median_stopping": Record({**_TYPED, **_WAIT}),
    "truncation_selection": Record({**_TYPED, **_WAIT, "truncation_percentage": Number(1, 99)}, required=("truncation_percentage",)),
}
_POLICY_NAMES = {"bandit": "Bandit", "median_stopping": "MedianStopping", "truncation_selection": "TruncationSelection"}
_SAMPLINGS = {
    "random": Record({**_TYPED, "seed": Number(), "rule": Text(choices("random", "sobol")), "logbase": Plain()}),
    "grid": Record(_TYPED),
    "bayesian": Record(_TYPED),
}
# What a sweep has, wherever it stands.
SWEEP: dict[str, Shape] = {
    "sampling_algorithm": Either(Text(choices(*_SAMPLINGS)), Chosen("type", _SAMPLINGS)),
    "search_space": MapOf(Chosen("type", _SPACES), job.INPUT_NAME, job.INPUT_RULE),
    "objective": Record({"goal": Text(choices("maximize", "minimize")), "primary_metric": Text()}, required=("goal", "primary_metric")),
    "early_termination": Chosen("type", _POLICIES),
    "limits": Record(
        {"max_total_trials": Number(1), "max_concurrent_trials": Number(1), "timeout": Number(1), "trial_timeout": Number(1)},
        required=("max_total_trials",),
    ),
    "queue_settings": job.QUEUE_SETTINGS,
    "resources": job.RESOURCES,
}
TRIAL = Record(
    {
        "command": Text(),
        "code": job.CODE,
        "environment": Either(REFERENCE, ENVIRONMENT),
        "environment_variables": job.VARIABLES,
        "distribution": job.DISTRIBUTION,
        "resources": job.RESOURCES,
        "type": Text(choices("command")),
    },
    required=("command", "environment"),
    ignored=("$schema",),
)
SWEEP_JOB = Record(
    {**job.ABOUT, **SWEEP, "type": Text(choices("sweep")), "trial": TRIAL, "compute": job.COMPUTE_FIELD, "inputs": job.INPUTS, "outputs": job.OUTPUTS,
     "identity": job.IDENTITY},
    required=("trial", "search_space", "objective", "limits", "sampling_algorithm"),
    ignored=job.IGNORED,
    remedies=job.REMEDIES,
    rule=lambda values: job.placeholder_problems(str(values["trial"]["command"]), values, "trial.command"),
)  # fmt: skip


def needs(values: Manifest) -> list[Use]:
    """Code and environment of the trial, and the inputs."""
    trial = values["trial"]
    found = [Use("trial.code", Role.CODE, parse_reference(trial["code"]))] if "code" in trial else []
    return [*found, *asset_use("trial.environment", Role.ENVIRONMENT, trial["environment"]), *job.input_needs(values)]


def body(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT jobs/{name}`."""
    given = values["trial"]
    trial: Manifest = {
        "command": given["command"],
        "environmentId": resolved["trial.environment"],
        "environmentVariables": given.get("environment_variables", {}),
        **({"codeId": resolved["trial.code"]} if "code" in given else {}),
        **job.sections({name: given[name] for name in ("distribution", "resources") if name in given}),
    }
    properties: Manifest = {
        "jobType": "Sweep",
        **job.about(values),
        "trial": trial,
        "inputs": job.inputs_body(values, resolved),
        "outputs": job.outputs_body(values),
        "searchSpace": {name: distribution(space) for name, space in values["search_space"].items()},
        "samplingAlgorithm": _sampling(values["sampling_algorithm"]),
        "objective": {"goal": values["objective"]["goal"], "primaryMetric": values["objective"]["primary_metric"]},
        "limits": _limits(values["limits"]),
        **job.sections({"resources": values.get("resources") or given.get("resources")}),
        **job.sections({name: values[name] for name in ("queue_settings", "identity") if name in values}),
    }
    if "early_termination" in values:
        properties["earlyTermination"] = policy_body(values["early_termination"])
    if "compute" in values:
        properties["computeId"] = compute_id(workspace, values["compute"])
    return {"properties": properties}


def distribution(given: Manifest) -> list[Any]:
    """`{type: uniform, min_value: 0, max_value: 1}` as the wire has it, `["uniform", [0, 1]]`."""
    return [given["type"], [_choices(given[name]) if name == "values" else given[name] for name in _PARAMETERS if name in given]]


def _choices(values: list[Any]) -> list[Any]:
    def one(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: distribution(inner) if isinstance(inner, dict) and "type" in inner else inner for name, inner in value.items()}

    return [one(value) for value in values]


def _sampling(given: str | Manifest) -> Manifest:
    if isinstance(given, str):
        return {"samplingAlgorithmType": given.capitalize()}
    return {"samplingAlgorithmType": given["type"].capitalize(), **{name: value for name, value in given.items() if name != "type"}}


def policy_body(given: Manifest) -> Manifest:
    # The SDK's: a median needs something to look at.
    defaults: Manifest = {"evaluationInterval": 1 if given["type"] == "median_stopping" else 0, "delayEvaluation": 0}
    if given["type"] == "bandit":
        defaults |= {"slackFactor": 0, "slackAmount": 0}
    return {
        "policyType": _POLICY_NAMES[given["type"]],
        **defaults,
        **{job.camel(name): value for name, value in given.items() if name != "type"},
    }


def _limits(given: Manifest) -> Manifest:
    found: Manifest = {"jobLimitsType": "Sweep"}
    for name, value in given.items():
        found[job.camel(name)] = format_duration(timedelta(seconds=value)) if name.endswith("timeout") else value
    return found
