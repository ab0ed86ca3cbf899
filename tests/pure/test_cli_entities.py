"""What `show` prints of a resource is its document again: sent back, it makes the same body."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.documents import CORPUS, name_of

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body, load, uses
from moorage.wire.documents.references import Named
from moorage.wire.documents.uses import Role, Use, asset_id

W = Workspace("s", "g", "w")
SHOWN: dict[Kind, Callable[[Manifest], Manifest]] = {
    Kind.JOB: entities.job,
    Kind.ENVIRONMENT: entities.asset,
    Kind.MODEL: entities.asset,
    Kind.DATA: entities.asset,
    Kind.DATASTORE: entities.datastore,
    Kind.COMPUTE: entities.compute,
    Kind.WORKSPACE: entities.workspace,
    Kind.ENDPOINT: entities.endpoint,
    Kind.DEPLOYMENT: entities.deployment,
    Kind.BATCH_ENDPOINT: entities.batch_endpoint,
    Kind.BATCH_DEPLOYMENT: entities.batch_deployment,
}
# A component is shown with its specification as it was sent, and a schedule's job goes back as it is stored.
TRIED = [path for path in CORPUS if Kind(path.parent.name) in SHOWN]


def answer(use: Use) -> str:
    """What the client would find for a use: ids for references, and places of their own for what is sent."""
    if isinstance(use.reference, Named) and (known := asset_id(W, use.role, Named(use.reference.name, use.reference.version or "9"))):
        return known
    own = use.field.replace(".", "-").replace("_", "-")
    match use.role:
        case Role.CONDA:
            return "dependencies:\n- python=3.10\n"
        case Role.BUILD:
            return "https://host/blobstore/c/context/"
        case Role.CODE | Role.ENVIRONMENT | Role.COMPONENT:
            return W.child(use.role.value, own, "versions", "1")
        case Role.MODEL if use.inline is not None:
            return W.child("models", own, "versions", "1")
        case _:
            return f"azureml://datastores/workspaceblobstore/paths/{own}"


def made(document: Document) -> Manifest:
    return body(document, W, {use.field: answer(use) for use in uses(document)})


def resource(document: Document) -> Manifest:
    """The body as the service answers it."""
    values = document.values
    parts = {Kind.DEPLOYMENT: "onlineEndpoints", Kind.BATCH_DEPLOYMENT: "batchEndpoints"}
    if document.kind in parts:
        id = W.child(parts[document.kind], values["endpoint_name"], "deployments", values["name"])
    elif document.kind in (Kind.ENVIRONMENT, Kind.MODEL, Kind.DATA):
        collection = {"environment": "environments", "model": "models", "data": "data"}[document.kind.value]
        id = W.child(collection, values["name"], "versions", values["version"])
    else:
        id = W.child("things", values.get("name", "thing"))
    return {"id": id, "name": values.get("name"), **made(document)}


def plain(value: Any) -> Any:
    """Without what says nothing, and without notes of clients to themselves."""
    if isinstance(value, dict):
        found = {name: plain(inner) for name, inner in value.items() if name not in ("_source", "isArchived", "isAnonymous")}
        return {name: inner for name, inner in found.items() if inner not in (None, {}, [])}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


@pytest.mark.parametrize("path", TRIED, ids=name_of)
def test_what_is_shown_makes_the_same_body_again(path: Path) -> None:
    kind = Kind(path.parent.name)
    document = load(kind, path.read_text(encoding="utf-8"), name=str(path), folder=path.parent)
    sent = resource(document)
    shown = SHOWN[kind](json.loads(json.dumps(sent)))
    again = resource(amended(kind, shown, ()))
    secrets = ("credentials",) if kind is Kind.DATASTORE else ()
    assert {**plain(again), "properties": _but(plain(again)["properties"], secrets)} == {
        **plain(sent),
        "properties": _but(plain(sent)["properties"], secrets),
    }


def _but(properties: Manifest, names: tuple[str, ...]) -> Manifest:
    return {name: value for name, value in properties.items() if name not in names}


def test_what_documents_have_no_word_for_is_shown_as_it_is() -> None:
    sent = {
        "jobType": "Sweep",
        "searchSpace": {"a": ["unheard", [1]], "b": "x", "c": ["choice", [[1, {"d": ["uniform", [0, 1]]}]]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Unheard", "moreOf": 1},
        "services": {"Studio": {"jobServiceType": "Studio", "endpoint": "https://x", "port": None}},
        "distribution": {"distributionType": "Ray", "headNode": "h"},
    }
    shown = entities.job({"id": "/x", "name": "j", "properties": sent})
    assert shown["search_space"]["a"] == ["unheard", [1]] and shown["search_space"]["b"] == "x"
    assert shown["search_space"]["c"]["values"][1] == {"d": {"type": "uniform", "min_value": 0, "max_value": 1}}
    assert shown["sampling_algorithm"] == {"type": "unheard", "more_of": 1}
    assert shown["services"] == {"Studio": {"type": "Studio", "endpoint": "https://x"}}
    spec = {"inputs": {"trainData": {"type": "uri_folder"}}, "command": "c"}
    component = entities.asset({"id": W.child("components", "c", "versions", "1"), "properties": {"componentSpec": spec}})
    assert component["component_spec"] == spec, "names in it are the user's"
