"""A job's `plan.json` and the places of its inputs and outputs in the pod."""

from __future__ import annotations

from dataclasses import asdict
from posixpath import basename

from moorage.errors import Invalid
from moorage.specs import workload
from moorage.specs.distribution import layout
from moorage.specs.manifest import Manifest

WORK_FOLDER = "/mnt/azureml"
CODE_FOLDER = f"{WORK_FOLDER}/code"
# Takes what the command installs with pip, above the prepared environment, which is shared and read-only.
INSTALLS_FOLDER = f"{WORK_FOLDER}/.python"
# What runs the command of a job of one process.
START_FOLDER = f"{WORK_FOLDER}/.start"
# What processes of a job of several need to find each other, and the output of those beyond a pod's first.
PEERS_FOLDER = f"{WORK_FOLDER}/.peers"
USER_LOGS_FOLDER = f"{WORK_FOLDER}/user_logs"
# Folders of the working folder that the original keeps with the run.
_ARTIFACT_FOLDERS = ("outputs", "logs")


def input_values(spec: Manifest) -> dict[str, str]:
    """What `${{inputs.NAME}}` stands for: a literal's text, a folder's or a file's path."""
    values: dict[str, str] = {}
    for name, given in (spec.get("inputs") or {}).items():
        if given["type"] == "literal":
            values[name] = str(given.get("value", ""))
        elif not given.get("uri"):
            raise Invalid(f"Input '{name}' has no uri; give it a path.", code="InputWithoutUri", target=f"inputs.{name}")
        elif given["type"] == "uri_file":
            values[name] = f"{WORK_FOLDER}/inputs/{name}/{basename(given['uri'])}"
        else:
            values[name] = f"{WORK_FOLDER}/inputs/{name}"
    return values


def output_values(spec: Manifest) -> dict[str, str]:
    """What `${{outputs.NAME}}` stands for: a folder that exists, or the path of a file to write."""
    return {name: f"{WORK_FOLDER}/outputs/{name}" for name in spec.get("outputs") or {}}


def plan(spec: Manifest) -> Manifest:
    """The plan that our containers in the pod read; the form stands in docs/internals/seams.md."""
    downloads: list[Manifest] = []
    if code := spec.get("code"):
        downloads.append({"uri": code["uri"], "kind": "folder", "to": CODE_FOLDER})
    for name, given in sorted((spec.get("inputs") or {}).items()):
        if given["type"] != "literal":
            # Models and tables may be registered from one file or from a folder; only the blob service can tell.
            kind = {"uri_file": "file", "uri_folder": "folder"}.get(given["type"], "any")
            downloads.append({"uri": given["uri"], "kind": kind, "to": f"{WORK_FOLDER}/inputs/{name}"})
    uploads = [
        {"from": path, "to": spec["outputs"][name]["uri"].rstrip("/"), "kind": _output_kind(spec["outputs"][name]["type"])}
        for name, path in sorted(output_values(spec).items())
    ]
    if artifacts := spec.get("artifactsUri"):
        uploads += [
            {"from": f"{CODE_FOLDER}/{folder}", "to": f"{artifacts.rstrip('/')}/{folder}", "kind": "folder"} for folder in _ARTIFACT_FOLDERS
        ]
    together = layout(spec)
    if artifacts and together.processes > 1:
        uploads.append({"from": USER_LOGS_FOLDER, "to": f"{artifacts.rstrip('/')}/user_logs", "kind": "folder"})
    found: Manifest = {"downloads": downloads, "uploads": uploads, "folders": [CODE_FOLDER]}
    if together.together:
        found["layout"] = asdict(together)
    if environment := workload.environment_plan(spec.get("environment") or {}):
        found["environment"] = environment
    return found


def _output_kind(type: str) -> str:
    return "file" if type == "uri_file" else "folder"
