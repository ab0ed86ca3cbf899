"""Our reading of a document beside the SDK's: both bodies in one form, and the differences that are meant, each with its reason."""

from __future__ import annotations

import json
import queue
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents import assets, component, pipeline
from moorage.wire.documents.document import Document, Kind, body, load, uses
from moorage.wire.documents.references import Local, Named, ResourceId, Uri
from moorage.wire.documents.uses import Role, Use
from tests.sdk.lines import answering

W = Workspace("s", "g", "w")
_PATIENCE = 120.0
# Where the two differ on purpose: a pattern of `path: theirs != ours`, and why.
EXCEPTIONS: tuple[tuple[str, str], ...] = (
    (r"(experimentName|displayName): ", "the SDK fills them in when it submits, we when we read"),
    (r"\.client_component_hash: |^properties\.properties: \{'client_component_hash': '[^']*'\} != <nothing>", "tells the SDK whether an upload can be left out; the service does not need it"),
    (r"componentSpec\.\$schema: ", "which schema an editor used is no part of a component"),
    (r"[tT]imeout: 'PT\d+M' != 'PT.*S'", "the SDK rounds time limits up to whole minutes; we keep the seconds"),
    (r"jobs\.\w+\.(resources|distribution|task|input_data|retry_settings|max_concurrency_per_instance|mini_batch_error_threshold|"
     r"logging_level|mini_batch_size)(\.\w+)*: .* != <nothing>",
     "the SDK copies a component's own settings into the step that uses it; they are in force without that"),
    (r"jobs\.\w+\._source: ", "where a client read a component from, for its maker's statistics"),
    (r"componentSpec\._source: ", "the same"),
    (r"componentSpec\.sourceJobId: ", "the same"),
    (r"environment_variables\.\w+: (\d+) != '\1'", "environment variables are text; the SDK leaves numbers in steps as they are"),
    (r"environmentVariables\.\w+: ([\d.]+|True|False|None) != '", "environment variables are text; the SDK leaves numbers as they are"),
    (r"outputs\.\w+\.mode: <nothing> != 'ReadWriteMount'", "the default, said"),
    (r"outputs\.\w+\.jobOutputType: ", "the SDK's default type of an output without one is uri_folder, too, once it is submitted"),
    (r"componentSpec\.outputs\.\w+\.mode: ", "the default, said"),
    (r"\.(hbiWorkspace|enableDataIsolation): False != <nothing>", "fields of the original's own cloud, off"),
    (r"^properties\.scaleSettings: <nothing> != \{'scaleType': 'Default'\}", "the default, said"),
    (r"^name: ", "stands in the address"),
    (r"componentSpec\.environment\.(name|version): ", "an unnamed environment, which the SDK registers before it sends the component, and so do we"),
    (r"^properties\.(environmentId|model): <nothing> != \{", "an unnamed asset of a deployment, which the SDK registers before it makes the body"),
    (r"^sku\.capacity: <nothing> != 1", "the least there is of a deployment that scales"),
    (r"^kind: 'default' != <nothing>", "the one kind of workspace there is"),
    (r"friendlyName: ", "the workspace's name where the document has no other"),
    (r"identity\.type: <nothing> != 'SystemAssigned'", "the SDK says it when it submits"),
    (r"^identity\.type: '(Systemassigned|Userassigned)' != '(?i:\1)'", "the SDK's own spelling for workspaces"),
    (r"^sku\.name: ", "the SDK says it when it submits"),
    (r"is_deterministic: <nothing> != True", "the default, said"),
    (r"\.dockerfilePath: <nothing> != 'Dockerfile'", "the default, said"),
    (r"dataCollector(\.collections\.\w+)?\.(samplingRate: <nothing> != 1|rollingRate: <nothing> != 'hour')", "the default, said"),
    (r"\b(code|codeId|contextUri): '' != '", "the folder of the document, which the SDK resolves when it uploads"),
    (r"distribution\.parameter_server_count: 0 != <nothing>", "the default, said by the SDK"),
    (r"\.mini_batch_size: '0' != <nothing>", "what the SDK fills in where keys make the mini-batches"),
    (r"^tags\.\w+: ([\d.]+|True|False) != '", "tags are text; the SDK leaves numbers of batch deployments as they are"),
    (r"^properties\.endpointComputeType: 'Managed' != 'Kubernetes'", "there is no other kind of endpoint here"),
    (r"componentId\.inputs\.\w+\.type: 'uri_folder' != 'uri_file'",
     "an input that names its binding under `path`: the SDK takes the default type, we the type of what is bound"),
)  # fmt: skip

DATA_EXCEPTIONS = ((r"^properties\.properties: <nothing> != ", "the SDK's loader drops the properties of data documents"),)


@dataclass
class Reader:
    """The SDK's loaders, in a process of the SDK's own environment."""

    process: subprocess.Popen[str]
    answers: queue.Queue[str]

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.answers.get(timeout=_PATIENCE)
        assert line, f"the SDK's process ended at {question}"
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def reading(python: Path) -> Iterator[Reader]:
    process = subprocess.Popen(
        [python, Path(__file__).with_name("yaml_reader.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip
    with answering(process) as answers:
        yield Reader(process, answers)


# Ours, with every reference left as the SDK leaves it before it asks the service


def ours(kind: Kind, path: Path, options: Manifest | None = None) -> Manifest:
    document = load(kind, path.read_text(encoding="utf-8"), name=str(path), folder=path.parent, options=options)
    made = _body(document)
    if "name" in document.values and kind in (Kind.COMPUTE, Kind.WORKSPACE, Kind.COMPONENT):
        made["name"] = document.values["name"]
    return made


def _body(document: Document) -> Manifest:
    return _nested(body(document, W, _resolved(document, uses(document))))


def _resolved(document: Document, wanted: list[Use]) -> dict[str, str]:
    found: dict[str, str] = {}
    for use in wanted:
        # Includes without code of their own: the SDK's body has no code before they are put together.
        if use.reference is not None or not use.includes:
            found[use.field] = _left(document, use, found)
    return found


def _left(document: Document, use: Use, found: dict[str, str]) -> str:
    if isinstance(use.reference, Local) and not (document.folder / use.reference.path).exists():
        # The client says so in our case, the loader in the SDK's.
        raise document.refusal(use.field, f"'{use.reference.path}' does not exist.")
    if use.role is Role.COMPONENT and (use.inline is not None or isinstance(use.reference, Local)):
        inner = (
            replace(document, kind=Kind.COMPONENT, values=use.inline) if use.inline is not None else _file(document, use, Kind.COMPONENT)
        )
        resolved = _resolved(inner, pipeline.component_needs(inner.values))
        return json.dumps({"component": pipeline.component_spec(inner.values, W, resolved)})
    if use.role is Role.JOB and isinstance(use.reference, Named):
        return json.dumps({"sourceJobId": W.child("jobs", use.reference.name)})
    if use.role is Role.JOB:
        inner = _file(document, use, Kind.JOB)
        return json.dumps(body(inner, W, _resolved(inner, uses(inner)))["properties"])
    if use.role is Role.CONDA:
        assert isinstance(use.reference, Local)
        return assets.conda_text((document.folder / use.reference.path).read_text(encoding="utf-8"), use.reference.path)
    if use.role is Role.ENVIRONMENT and isinstance(use.reference, Local):
        inner = _file(document, use, Kind.ENVIRONMENT)
        return json.dumps({"asset": assets.environment_body(inner.values, _resolved(inner, uses(inner)), anonymous=True)})
    if use.role is Role.ENVIRONMENT and use.inline is not None:
        return json.dumps({"asset": assets.environment_body(use.inline, found, prefix=f"{use.field}.", anonymous=True)})
    if use.role is Role.MODEL and use.inline is not None:
        assert isinstance(use.reference, Local)
        return json.dumps({"asset": assets.model_body(use.inline, use.reference.path, anonymous=True)})
    match use.reference:
        case Named():
            return str(use.reference).removeprefix("azureml:")
        case ResourceId(id):
            return id
        case Uri(text):
            return text
        case Local(path):
            # As the SDK, which makes code's paths absolute: `code: .` has a name then, too.
            return str((document.folder / path).resolve()) if use.role in (Role.CODE, Role.BUILD) else path
        case _:
            raise AssertionError(use)


def _file(document: Document, use: Use, kind: Kind) -> Document:
    assert isinstance(use.reference, Local)
    path = document.folder / use.reference.path
    return load(kind, path.read_text(encoding="utf-8"), name=str(path), folder=path.parent)


def _nested(value: Any) -> Any:
    """Assets that were left in the body as JSON, in place."""
    if isinstance(value, dict):
        return {name: _nested(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_nested(inner) for inner in value]
    if isinstance(value, str) and value.startswith(('{"component"', '{"asset"')):
        return _nested(json.loads(value))
    return value


# One form of both


def differences(kind: Kind, theirs: Manifest, own: Manifest) -> list[str]:
    """What remains after both are brought into one form and the exceptions are taken out; empty when they agree."""
    found = list(_compared(_plain(theirs), _plain(own), ""))
    meant = EXCEPTIONS + (DATA_EXCEPTIONS if kind is Kind.DATA else ())
    return [each for each in found if not any(re.search(pattern, each) for pattern, _ in meant)]


def _compared(theirs: Any, own: Any, path: str) -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(own, dict):
        for name in sorted({*theirs, *own}):
            yield from _compared(theirs.get(name), own.get(name), f"{path}.{name}" if path else name)
    elif theirs != own:
        yield f"{path}: {'<nothing>' if theirs is None else repr(theirs)} != {'<nothing>' if own is None else repr(own)}"


_ID = re.compile(rf"^(?:azureml:)?{W.id}/(?:computes|datastores|jobs)/(?P<name>[^/]+)$")
_ASSET = re.compile(r"^azureml:(?P<rest>(?!//|/).+)$")
_FALSE = ("isArchived", "isAnonymous", "appInsightsEnabled", "location", "provisioningState")
_PATHS = ("code", "codeId", "path", "modelUri", "dataUri", "contextUri")


def _plain(value: Any, name: str = "") -> Any:
    """Without what says nothing (null, empty, false flags), ids and references as bare names, nested components and assets as mappings."""
    if isinstance(value, dict):
        if set(value) == {"component"}:
            return _specification(value["component"])
        if set(value) == {"asset"}:
            return _asset(value["asset"])
        if name in ("componentSpec", "task"):
            value = _environments(value)
        if name == "trial" and "properties" in value:
            return {"componentId": _specification(value["properties"]["componentSpec"])}
        inner = {key: _plain(each, key) for key, each in value.items() if key not in _FALSE}
        return {key: each for key, each in inner.items() if each not in (None, {}, [])} or None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if name in ("componentId", "trial") and "\n" in value:
        return _specification(yaml.safe_load(value))
    if name == "startTime" or name == "endTime":
        return value.replace(" ", "T")
    if found := _ID.match(value):
        return found["name"]
    if name in _PATHS:
        value = re.sub(r"^azureml:(?=/(?!/|subscriptions/))", "", value)
        return Path(value).name if not value.startswith(("azureml", "http", "wasbs", "git")) else value.rstrip("/")
    if name == "osType":
        return None if value.lower() == "linux" else value
    if name == "condaFile":
        return yaml.safe_load(value)
    return _ASSET.sub(lambda found: found["rest"], value)


def _asset(made: Manifest) -> Any:
    properties = made.get("properties", made)
    if "componentSpec" in properties:
        return _specification(properties["componentSpec"])
    kept = ("image", "condaFile", "build", "osType", "inferenceConfig", "modelType", "modelUri")
    return _plain({key: value for key, value in properties.items() if key in kept})


def _environments(spec: Manifest) -> Manifest:
    """The environment of a component and of a parallel one's task in the form of an environment's body, without the name the SDK made up."""
    found = dict(spec)
    environment = found.get("environment")
    if isinstance(environment, str) and environment.startswith("{"):
        found["environment"] = json.loads(environment)
    elif isinstance(environment, dict) and not {"asset", "condaFile"} & set(environment):
        build = environment.get("build") or {}
        found["environment"] = {
            "image": environment.get("image"),
            "condaFile": environment.get("conda_file"),
            "build": {"contextUri": build.get("path"), "dockerfilePath": build.get("dockerfile_path")},
            "inferenceConfig": environment.get("inference_config"),
        }
    if isinstance(found.get("task"), dict):
        found["task"] = _environments(found["task"])
    return found


def _specification(spec: Manifest) -> Any:
    """A component that is part of a step: what it does, without its name, its version and where it was read."""
    left = ("$schema", "name", "version", "_source", "display_name", "is_deterministic", "tags", "jobs", "sourceJobId", "schema")
    found = {key: value for key, value in spec.items() if key not in left}
    found = _environments(found)
    for side in ("inputs", "outputs"):
        found[side] = {name: {key: str(value) for key, value in port.items()} for name, port in (found.get(side) or {}).items()}
    return _plain(found)


__all__ = ["EXCEPTIONS", "Reader", "component", "differences", "ours", "reading"]
