"""The pipelineJob document and its steps; a pipeline component has the same steps.

A step's own fields travel in snake_case, its inputs and outputs too (`job_input_type`); only `componentId` and `computeId` do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents import component, job, sweep
from moorage.wire.documents.assets import REFERENCE
from moorage.wire.documents.references import parse_reference
from moorage.wire.documents.shapes import (
    Chosen,
    Either,
    Flag,
    Literal,
    MapOf,
    Optional,
    Record,
    Shape,
    Text,
    choices,
    compute_problem,
    reference_problem,
)
from moorage.wire.documents.support import unsupported_kind
from moorage.wire.documents.uses import MODEL_TYPES, Resolved, Role, Use, compute_id

_BINDING = re.compile(
    r"^\s*\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|jobs\.(?P<job>\w+)\.outputs\.(?P<output>\w+)|outputs\.(?P<own>\w+))\s*\}\}\s*$"
)
_EXPRESSION = re.compile(r"\$\{\{.*\}\}")


def _binding_problem(text: str) -> str | None:
    if _BINDING.match(text):
        return None
    return f"'{text}' is no binding; write ${{{{parent.outputs.NAME}}}}, or a mapping with type, mode and path."


def _compute_problem(text: str) -> str | None:
    found = _BINDING.match(text)
    if found is None:
        return compute_problem(text)
    return None if found["input"] is not None else f"'{text}' names no input; write ${{{{parent.inputs.NAME}}}} or azureml:NAME."


def _output_path_problem(text: str) -> str | None:
    return None if _BINDING.match(text) else reference_problem(text)


def _output_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    # A step's output may be the pipeline's: bound under `path` as well as in one word.
    return [] if _BINDING.match(values.get("path", "")) else job.output_rule(values)


_OUTPUT = Record({**job.OUTPUT.fields, "path": Text(check=_output_path_problem)}, rule=_output_rule)
_INPUT_PATH = Record(
    {"type": Text(), "path": Text(), "mode": Text(choices(*job.INPUT_MODES)), "value": Literal(), "datastore": Text()},
    rule=lambda values: [] if "path" in values or "value" in values else [("path", "is required, and is missing.")],
)
_IO: dict[str, Shape] = {
    "name": Text(),
    "display_name": Text(),
    "description": Text(empty=True),
    "comment": Text(empty=True),
    "tags": MapOf(Text(empty=True)),
    "properties": MapOf(Text(empty=True)),
    "inputs": MapOf(Either(Literal(), _INPUT_PATH), job.INPUT_NAME, job.INPUT_RULE),
    "outputs": MapOf(Optional(Either(Text(check=_binding_problem), _OUTPUT), lambda: None), job.INPUT_NAME, job.INPUT_RULE),
    "compute": Text(check=_compute_problem),
    "type": Text(),
}


class _Components:
    """The shape of `component:`; steps hold components, and pipeline components hold steps."""

    says = "a component: its path, a reference, or its fields"

    def read(self, node: Any, path: Any, into: Any) -> Any:
        return Either(REFERENCE, COMPONENT).read(node, path, into)


def _step_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "component" in values and "command" in values:
        return [("command", "give either 'component' or 'command', not both.")]
    if "component" not in values and "command" not in values:
        return [("component", "is required, and is missing: a component, or the command itself.")]
    if "command" in values and "environment" not in values:
        return [("environment", "is required, and is missing.")]
    if "command" in values:
        return job.placeholder_problems(str(values["command"]), values, "command")
    return []


def _parallel_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if ("component" in values) == ("task" in values) and "component" not in values:
        return [("component", "is required, and is missing: a component, or the task itself.")]
    return []


SETTINGS = Record(
    {
        "default_compute": job.COMPUTE_FIELD,
        "default_datastore": Text(),
        "continue_on_step_failure": Flag(),
        "continue_run_on_failed_optional_input": Flag(),
        "force_rerun": Flag(),
        "on_init": Text(),
        "on_finalize": Text(),
    }
)
_PIPELINE_STEP = Record({**_IO, "component": _Components(), "settings": SETTINGS}, required=("component",))
_STEPS = MapOf(
    Chosen(
        "type",
        {
            "command": Record({**job.COMMAND, **_IO, "component": _Components()}, remedies=job.REMEDIES, rule=_step_rule),
            "sweep": Record(
                {**_IO, **sweep.SWEEP, "trial": _Components()},
                required=("trial", "search_space", "objective", "limits", "sampling_algorithm"),
            ),
            "parallel": Record(
                {**_IO, **component.BATCHES, "component": _Components(), "environment_variables": job.VARIABLES, "identity": job.IDENTITY},
                rule=_parallel_rule,
            ),
            "pipeline": _PIPELINE_STEP,
        },
        default="command",
        refused=lambda name: unsupported_kind("step", name),
    ),
    job.INPUT_NAME,
    job.INPUT_RULE,
)
COMPONENT = component.component(_STEPS, SETTINGS)


def _pipeline_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if ("jobs" in values) == ("component" in values):
        return [("jobs", "give either 'jobs', the steps, or 'component', a pipeline component.")]
    return step_problems(values.get("jobs", {}), values)


def step_problems(steps: Mapping[str, Any], parent: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Bindings that name no input, output or step of the pipeline."""
    problems: list[tuple[str, str]] = []
    for name, step in steps.items():
        compute = _BINDING.match(step.get("compute", ""))
        if compute and (problem := _unbound(compute, steps, parent)):
            problems.append((f"jobs.{name}.compute", f"'{step['compute']}' {problem}"))
        for side in ("inputs", "outputs"):
            for port, given in (step.get(side) or {}).items():
                text = given.get("path") if isinstance(given, dict) else given
                found = _BINDING.match(text) if isinstance(text, str) else None
                if found and (problem := _unbound(found, steps, parent)):
                    problems.append((f"jobs.{name}.{side}.{port}", f"'{text}' {problem}"))
    return problems


def _unbound(found: re.Match[str], steps: Mapping[str, Any], parent: Mapping[str, Any]) -> str | None:
    if found["job"] is not None:
        return None if found["job"] in steps else f"names no step; there are {', '.join(steps)}."
    side = "inputs" if found["input"] is not None else "outputs"
    known = parent.get(side) or {}
    if (found["input"] or found["own"]) in known:
        return None
    return f"names no field under {side} of the pipeline; it has {', '.join(known) or 'none'}."


PIPELINE_JOB = Record(
    {
        **job.ABOUT,
        "type": Text(choices("pipeline")),
        "compute": job.COMPUTE_FIELD,
        "settings": SETTINGS,
        "inputs": job.INPUTS,
        "outputs": job.OUTPUTS,
        "jobs": _STEPS,
        "component": REFERENCE,
        "identity": job.IDENTITY,
    },
    ignored=job.IGNORED,
    remedies=job.REMEDIES,
    rule=_pipeline_rule,
)


def needs(values: Manifest) -> list[Use]:
    """The components of the steps, what else the steps name, and the pipeline's inputs."""
    found = [Use("component", Role.COMPONENT, parse_reference(values["component"]))] if "component" in values else []
    return [*found, *steps_needs(values.get("jobs", {}), values), *job.input_needs(values)]


def steps_needs(steps: Manifest, parent: Manifest) -> list[Use]:
    """What the steps of a pipeline, or of a pipeline component, name."""
    found: list[Use] = []
    for name, step in steps.items():
        at = f"jobs.{name}."
        if step["type"] == "sweep":
            found.append(_component_use(f"{at}trial", step["trial"]))
        elif "component" in step:
            found.append(_component_use(f"{at}component", step["component"]))
        else:
            found.append(Use(f"{at}component", Role.COMPONENT, None, inline=_inline(name, step, steps, parent)))
        if "task" in step:
            found.extend(component.task_needs(step["task"], f"{at}task."))
        for port, given in (step.get("inputs") or {}).items():
            if isinstance(given, dict) and "path" in given and not _EXPRESSION.search(given["path"]):
                kind = given.get("type", "uri_folder")
                role = Role.MODEL if kind in MODEL_TYPES else Role.DATA
                found.append(
                    Use(f"{at}inputs.{port}.path", role, parse_reference(given["path"]), kind, datastore=given.get("datastore", ""))
                )
    return found


def _component_use(field: str, given: str | Manifest) -> Use:
    if isinstance(given, str):
        return Use(field, Role.COMPONENT, parse_reference(given))
    return Use(field, Role.COMPONENT, None, inline=given)


# A step that is its own component


def _inline(name: str, step: Manifest, steps: Manifest, parent: Manifest) -> Manifest:
    """The component that an inline step amounts to: its ports have the types of what is bound to them."""
    kept = ("command", "code", "environment", "resources", "distribution") if step["type"] == "command" else tuple(component.BATCHES)
    made: Manifest = {"type": step["type"], **{field: step[field] for field in kept if field in step}}
    if "description" in step:
        made["description"] = step["description"]
    made["inputs"] = {port: _port(given, steps, parent) for port, given in (step.get("inputs") or {}).items()}
    made["outputs"] = {port: _output_port(given, parent) for port, given in (step.get("outputs") or {}).items()}
    return made


def _port(given: Any, steps: Manifest, parent: Manifest) -> Manifest:
    if isinstance(given, dict) and "path" not in given:
        given = given["value"]
    if isinstance(given, dict):
        bound = _bound(given["path"], steps, parent)
        found = {"type": given.get("type") or (bound or {}).get("type", "uri_folder")}
        return found | ({"mode": given["mode"]} if "mode" in given else {})
    bound = _bound(given, steps, parent)
    if bound is not None:
        return bound
    return {"type": kind_of(given), "default": given}


def _bound(text: str, steps: Manifest, parent: Manifest) -> Manifest | None:
    found = _BINDING.match(text)
    if found is None:
        return None
    if found["job"] is not None:
        output = (steps.get(found["job"], {}).get("outputs") or {}).get(found["output"])
        return {"type": _output_port(output if output is not None else {}, parent)["type"]}
    given = (parent.get("inputs") or {}).get(found["input"])
    if isinstance(given, dict) and ("path" in given or "value" not in given):
        return {name: given[name] for name in ("type", "mode") if name in given} or {"type": "uri_folder"}
    return {"type": kind_of(given["value"] if isinstance(given, dict) else given)}


def _output_port(given: Any, parent: Manifest) -> Manifest:
    if isinstance(given, str):
        found = _BINDING.match(given)
        given = (parent.get("outputs") or {}).get(found["own"]) if found and found["own"] else None
    given = given or {}
    port = {"type": given.get("type", "uri_folder")}
    return port | ({"mode": given["mode"]} if "mode" in given else {})


def kind_of(text: object) -> str:
    """The primitive type of a literal as it was written."""
    if text in ("True", "False"):
        return "boolean"
    for kind, read in (("integer", int), ("number", float)):
        try:
            read(str(text))
        except ValueError:
            continue
        return kind
    return "string"


# Bodies


def body(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT jobs/{name}`."""
    properties: Manifest = {
        "jobType": "Pipeline",
        **job.about(values),
        "inputs": job.inputs_body(values, resolved),
        "outputs": job.outputs_body(values),
        "settings": settings_body(values.get("settings", {}), workspace),
        **job.sections({name: values[name] for name in ("identity",) if name in values}),
    }
    if "jobs" in values:
        properties["jobs"] = steps_body(values["jobs"], workspace, resolved)
    if "component" in values:
        properties["componentId"] = resolved["component"]
    if "compute" in values:
        properties["computeId"] = compute_id(workspace, values["compute"])
    return {"properties": properties}


def settings_body(given: Manifest, workspace: Workspace) -> Manifest:
    """`settings`, computes and datastores as ids."""
    found = {**given, "_source": "YAML.JOB"}
    if "default_compute" in given:
        found["default_compute"] = compute_id(workspace, given["default_compute"])
    if "default_datastore" in given:
        name = given["default_datastore"].removeprefix("azureml:")
        found["default_datastore"] = name if name.startswith("/") else workspace.child("datastores", name)
    return found


def steps_body(steps: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """`jobs` of a pipeline or of a pipeline component."""
    return {name: _step(name, step, workspace, resolved) for name, step in steps.items()}


def _step(name: str, step: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    at = f"jobs.{name}."
    found: Manifest = {"name": name, "type": step["type"]}
    for field in ("display_name", "comment", "tags", "properties", "environment_variables", *component.BATCHES):
        if field in step and field not in ("task", "mini_batch_size", "resources"):
            found[field] = step[field]
    found |= _sections(step)
    found["inputs"] = {port: _step_input(f"{at}inputs.{port}.path", given, resolved) for port, given in (step.get("inputs") or {}).items()}
    # An output of which nothing is said is as its component declares it.
    found["outputs"] = {port: _step_output(given) for port, given in (step.get("outputs") or {}).items() if given is not None}
    if "compute" in step:
        found["computeId"] = step["compute"] if _BINDING.match(step["compute"]) else compute_id(workspace, step["compute"])
    if "partition_keys" in step:
        found["partition_keys"] = json.dumps(step["partition_keys"])
    if "logging_level" in step:
        found["logging_level"] = step["logging_level"].upper()
    if "task" in step:
        found["task"] = component.task_body(step["task"], resolved, f"{at}task.")
    if "mini_batch_size" in step:
        size = component.bytes_of(step["mini_batch_size"])
        found["mini_batch_size"] = int(size) if size.isdecimal() else size
    if step["type"] == "sweep":
        found |= {"trial": {"componentId": resolved[f"{at}trial"]}, **_sweep(step)}
    else:
        found["componentId"] = resolved[f"{at}component"]
    inline = step["type"] != "sweep" and "component" not in step
    found["_source"] = "YAML.JOB" if inline else "REMOTE.WORKSPACE.COMPONENT"
    return found


def _sections(step: Manifest) -> Manifest:
    """Resources, distribution and their like: what `job.sections` makes of them, in a step's case."""
    found: Manifest = {}
    if step.get("resources"):
        found["resources"] = step["resources"]
    if step["type"] != "sweep" and step.get("limits"):
        found["limits"] = {"timeout": format_duration(timedelta(seconds=step["limits"]["timeout"])), "job_limits_type": "Command"}
    for field in ("distribution", "identity", "services", "queue_settings"):
        if step.get(field):
            found[field] = _snake(next(iter(job.sections({field: step[field]}).values())))
    return found


def _snake(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    # What stands under `properties` has names of its own (`logDir` of a TensorBoard).
    return {
        re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower(): inner if name == "properties" else _snake(inner)
        for name, inner in value.items()
    }


def _step_input(field: str, given: Any, resolved: Resolved) -> Manifest:
    if not isinstance(given, dict):
        return {"job_input_type": "literal", "value": given}
    if "path" not in given:
        return {"job_input_type": "literal", "value": given["value"]}
    mode = {"mode": job.INPUT_MODES[given["mode"]]} if "mode" in given else {}
    if field not in resolved:
        return {"job_input_type": "literal", "value": given["path"], **mode}
    return {"job_input_type": given.get("type", "uri_folder"), "uri": resolved[field], **mode}


def _step_output(given: Any) -> Manifest:
    if isinstance(given, str):
        return {"type": "literal", "value": given}
    if isinstance(given.get("path"), str) and _BINDING.match(given["path"]):
        mode = {"mode": job.OUTPUT_MODES[given["mode"]]} if "mode" in given else {}
        return {"type": "literal", "value": given["path"], **mode, **{name: given[name] for name in ("name", "version") if name in given}}
    found: Manifest = {"job_output_type": given.get("type", "uri_folder")}
    if "mode" in given:
        found["mode"] = job.OUTPUT_MODES[given["mode"]]
    for field, wire in (("path", "uri"), ("name", "name"), ("version", "version")):
        if field in given:
            found[wire] = given[field]
    return found


def _sweep(step: Manifest) -> Manifest:
    found: Manifest = {name: step[name] for name in ("sampling_algorithm", "search_space", "objective", "limits") if name in step}
    if "early_termination" in step:
        policy = _snake(sweep.policy_body(step["early_termination"]))
        found["early_termination"] = {name: value for name, value in policy.items() if value or not name.startswith("slack")}
    return found


def component_needs(values: Manifest) -> list[Use]:
    """What a component of any type names."""
    return steps_needs(values["jobs"], values) if values["type"] == "pipeline" else component.needs(values)


def component_spec(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """`componentSpec` of any type."""
    found = component.spec(values, resolved)
    if values["type"] == "pipeline":
        found["jobs"] = steps_body(values["jobs"], workspace, resolved)
    return found
