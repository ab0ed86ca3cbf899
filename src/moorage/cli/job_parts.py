"""The parts of a job as a document writes them: sections of a command, a sweep's search, a pipeline's steps.

Clients send more than documents can say; what has no word there is shown as it was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from moorage.cli.naming import reference, seconds, snake, snaked, tidy
from moorage.specs.manifest import Manifest

MODES = {
    "ReadOnlyMount": "ro_mount",
    "ReadWriteMount": "rw_mount",
    "Download": "download",
    "Direct": "direct",
    "Upload": "upload",
    "EvalMount": "eval_mount",
    "EvalDownload": "eval_download",
}
_DISTRIBUTIONS = {"pytorch": "pytorch", "tensorflow": "tensorflow", "mpi": "mpi"}
_IDENTITIES = {"managed": "managed", "amltoken": "aml_token", "useridentity": "user_identity"}
_IDENTITY_NAMES = {"resource_id": "msi_resource_id"}
_SERVICES = {"jupyterlab": "jupyter_lab", "vscode": "vs_code", "ssh": "ssh", "tensorboard": "tensor_board"}
_SERVICE_WORDS = {"logDir": "log_dir", "sshPublicKeys": "ssh_public_keys"}
_PRIORITIES = {1: "low", 2: "medium", 3: "high"}
_BOUNDS = ("min_value", "max_value")
_SPACES = {
    "choice": ("values",),
    "uniform": _BOUNDS,
    "loguniform": _BOUNDS,
    "quniform": (*_BOUNDS, "q"),
    "qloguniform": (*_BOUNDS, "q"),
    "normal": ("mu", "sigma"),
    "lognormal": ("mu", "sigma"),
    "qnormal": ("mu", "sigma", "q"),
    "qlognormal": ("mu", "sigma", "q"),
    "randint": ("upper",),
}


def _typed(given: Any, key: str, names: Mapping[str, str]) -> Any:
    """A section with its kind under `type`; names in either case, as a step has them in one and a job in the other."""
    if not isinstance(given, Mapping):
        return None
    found = {snake(name): value for name, value in given.items() if value is not None}
    kind = str(found.pop(key, ""))
    return {"type": names.get(kind.lower().replace("_", ""), snake(kind)), **found}


def distribution(given: Any) -> Any:
    return _typed(given, "distribution_type", _DISTRIBUTIONS)


def identity(given: Any) -> Any:
    found = _typed(given, "identity_type", _IDENTITIES)
    return {_IDENTITY_NAMES.get(name, name): value for name, value in found.items()} if found else None


def queue(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return None
    found = snaked(given)
    if isinstance(found.get("job_tier"), str):
        found["job_tier"] = found["job_tier"].lower()
    return tidy({**found, "priority": _PRIORITIES.get(found.get("priority"), found.get("priority"))})


def services(given: Any) -> Manifest:
    """Services that a job asks for, and those that the service adds to every job, as they are."""
    return {name: _service(service) for name, service in (given or {}).items() if isinstance(service, Mapping)}


def _service(given: Mapping[str, Any]) -> Manifest:
    found = {snake(name): value for name, value in given.items() if value is not None}
    kind = str(found.pop("job_service_type", ""))
    known = _SERVICES.get(kind.lower().replace("_", ""))
    if known is None:
        return {"type": kind, **found}
    nodes = found.pop("nodes", None)
    words = dict(found.pop("properties", None) or {})
    own = {word: words.pop(name) for wire, word in _SERVICE_WORDS.items() for name in (wire, snake(wire)) if name in words}
    where = nodes.get("nodesValueType") or nodes.get("nodes_value_type") if isinstance(nodes, Mapping) else nodes
    return tidy({"type": known, **found, "nodes": where.lower() if where == "All" else where, **own, "properties": words or None})


def limits(given: Any) -> Any:
    """Limits of a command or a sweep, times in seconds."""
    if not isinstance(given, Mapping):
        return None
    found = {snake(name): value for name, value in given.items() if value is not None and snake(name) != "job_limits_type"}
    return {name: seconds(value) if name.endswith("timeout") else value for name, value in found.items()} or None


def port(given: Any, key: str) -> Any:
    """An input or output, whose kind stands under `key` in either case; a literal is its value, and a binding with a mode its path."""
    if not isinstance(given, Mapping):
        return given
    found = {snake(name): value for name, value in given.items()}
    kind = found.get(snake(key)) or found.get("type")
    mode = MODES.get(str(found.get("mode")), found.get("mode"))
    if kind == "literal":
        return tidy({"path": found.get("value"), "mode": mode}) if mode else found.get("value")
    shown = {"type": kind, "path": reference(found.get("uri")), "mode": mode}
    # A step's output has plain words for what it is registered as.
    return tidy({**shown, **{name: found.get(f"asset_{name}", found.get(name)) for name in ("name", "version")}})


def ports(given: Any, key: str) -> Manifest:
    return {name: port(each, key) for name, each in (given or {}).items()}


# Sweeps


def sweep(properties: Manifest) -> Manifest:
    """What a sweep job has besides what every job has."""
    return {
        "trial": trial(properties.get("trial")),
        **search(properties),
        "limits": limits(properties.get("limits")),
        "queue_settings": queue(properties.get("queueSettings")),
        "resources": tidy(snaked(properties.get("resources") or {})) or None,
        "identity": identity(properties.get("identity")),
    }


def trial(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    known = ("command", "codeId", "environmentId", "environmentVariables", "distribution", "resources")
    return tidy(
        {
            "command": given.get("command"),
            "code": reference(given.get("codeId")),
            "environment": reference(given.get("environmentId")),
            "environment_variables": given.get("environmentVariables") or None,
            "distribution": distribution(given.get("distribution")),
            "resources": tidy(snaked(given.get("resources") or {})) or None,
            **{snake(name): value for name, value in given.items() if name not in known},
        }
    )


def search(given: Manifest) -> Manifest:
    """Where a sweep looks, how, for what, and when it gives a trial up."""
    wire = {snake(name): value for name, value in given.items()}
    goal = wire.get("objective")
    return {
        "search_space": {name: space(each) for name, each in (wire.get("search_space") or {}).items()},
        "sampling_algorithm": _sampling(wire.get("sampling_algorithm")),
        "objective": {**snaked(goal), "goal": str(goal.get("goal")).lower()} if isinstance(goal, Mapping) else goal,
        "early_termination": _typed(wire.get("early_termination"), "policy_type", {}),
    }


def _sampling(given: Any) -> Any:
    return _typed(given, "sampling_algorithm_type", {}) if isinstance(given, Mapping) else given


def space(given: Any) -> Any:
    """`["uniform", [0, 1]]` -> `{type: uniform, min_value: 0, max_value: 1}`."""
    if not _is_space(given):
        return given
    kind, values = given
    if kind == "choice":
        return {"type": kind, "values": [_option(value) for value in values[0]]}
    return {"type": kind, **dict(zip(_SPACES[kind], values, strict=False))}


def _is_space(given: Any) -> bool:
    if not (isinstance(given, list) and len(given) == 2 and given[0] in _SPACES and isinstance(given[1], list)):
        return False
    return given[0] != "choice" or (len(given[1]) == 1 and isinstance(given[1][0], list))


def _option(value: Any) -> Any:
    return {name: space(inner) for name, inner in value.items()} if isinstance(value, Mapping) else value


# Pipelines


def settings(given: Any) -> Any:
    """Settings of a pipeline; what the client notes there for itself is left out."""
    if not isinstance(given, Mapping):
        return given
    return {name: reference(value) for name, value in given.items() if not name.startswith("_")}


def steps(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    return {name: _step(step) if isinstance(step, Mapping) else step for name, step in given.items()}


_STEP: Mapping[str, Callable[[Any], Any]] = {
    "distribution": distribution,
    "identity": identity,
    "queue_settings": queue,
    "services": services,
    "limits": limits,
    "inputs": lambda given: ports(given, "job_input_type"),
    "outputs": lambda given: ports(given, "job_output_type"),
    "task": lambda given: {name: _own(value) for name, value in given.items()} if isinstance(given, Mapping) else given,
    "logging_level": lambda given: str(given).lower(),
    "partition_keys": lambda given: _keys(given),
    "trial": lambda given: reference(given.get("componentId")) if isinstance(given, Mapping) else given,
}
_STEP_NAMES = {"componentId": "component", "computeId": "compute"}


def _step(given: Mapping[str, Any]) -> Manifest:
    found: Manifest = {}
    for name, value in given.items():
        if name in _STEP_NAMES:
            found[_STEP_NAMES[name]] = reference(value)
        elif name != "name" and not name.startswith("_") and value is not None:
            found[name] = _STEP[name](value) if name in _STEP else value
    if given.get("type") == "sweep":
        found |= {name: value for name, value in search(dict(given)).items() if name in given}
    return found


def _keys(given: Any) -> Any:
    """`'["a", "b"]'`, as the wire has partition keys, as the list that it says."""
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _own(value: Any) -> Any:
    """A reference inside a specification, where ids carry `azureml:`."""
    return reference(value.removeprefix("azureml:")) if isinstance(value, str) and re.match(r"azureml:/", value) else value
