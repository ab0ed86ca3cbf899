"""Every field that a document may have is acted on, or stands in the table of those that are not; whoever sends one of those is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.ids import Workspace
from moorage.wire import later
from moorage.wire.documents.document import JOBS, SHAPES, Kind, body, load, uses
from moorage.wire.documents.shapes import Chosen, Either, ListOf, MapOf, Optional, Record, Shape
from moorage.wire.idle import FIELDS, TYPES, kept, unsent, warnings
from moorage.wire.warning import HEADER, header, read_header

W = Workspace("s", "g", "w")
_WORDS = "name version description tags.* properties.*"
_ENVIRONMENT = f"image conda_file build.path build.dockerfile_path datastore {_WORDS}"
_MODEL = f"path type flavors.*.* stage datastore {_WORDS}"
# What something acts on: the operators, the service, the command line, or those who read the words about it. A new field of a document belongs here once
# it does what it says, and into `wire.idle` until then.
ACTED_ON = {
    Kind.JOB: f"type name display_name experiment_name description tags.* properties.* code command compute environment environment_variables.* limits.timeout "
    "distribution.type distribution.process_count_per_instance distribution.worker_count distribution.parameter_server_count "
    "inputs.* inputs.*.type inputs.*.path inputs.*.value inputs.*.datastore outputs.*.type outputs.*.path outputs.*.name outputs.*.version "
    f"resources.instance_type resources.instance_count resources.shm_size {' '.join(f'environment.{each}' for each in _ENVIRONMENT.split())}",
    Kind.ENVIRONMENT: _ENVIRONMENT,
    Kind.MODEL: _MODEL,
    Kind.DATA: f"path type datastore {_WORDS}",
    # What a datastore outside says is kept for those who ask for it, and never used by a job: `account_name` says so.
    Kind.DATASTORE: "type name description tags.* container_name filesystem endpoint protocol credentials.account_key credentials.authority_url "
    "credentials.certificate credentials.client_id credentials.client_secret credentials.resource_url credentials.sas_token credentials.tenant_id "
    "credentials.thumbprint",
    Kind.COMPUTE: "type name description tags.* resource_id namespace",
    # The last two are refused when they are on.
    Kind.WORKSPACE: "name display_name description tags.* location resource_group hbi_workspace enable_data_isolation",
    Kind.ENDPOINT: "name description tags.* properties.* auth_mode compute traffic.* mirror_traffic.*",
    Kind.DEPLOYMENT: "type name endpoint_name description tags.* properties.* code_configuration.code code_configuration.scoring_script environment "
    "environment_variables.* instance_count instance_type provisioning_timeout model resources.limits.cpu resources.limits.memory resources.limits.gpu resources.requests.cpu resources.requests.memory resources.requests.gpu "
    "resources.limits.nvidia.com/gpu resources.requests.nvidia.com/gpu "
    "request_settings.max_concurrent_requests_per_instance request_settings.max_queue_wait_ms request_settings.request_timeout_ms "
    f"{' '.join(f'environment.{each}' for each in _ENVIRONMENT.split())} {' '.join(f'model.{each}' for each in _MODEL.split())} "
    + " ".join(
        f"{probe}_probe.{each}"
        for probe in ("liveness", "readiness")
        for each in ("failure_threshold", "initial_delay", "period", "success_threshold", "timeout")
    ),
}
# None of these runs, whatever it says.
KEPT = {Kind.COMPONENT: later.COMPONENT, Kind.BATCH_ENDPOINT: later.BATCH_ENDPOINT, Kind.BATCH_DEPLOYMENT: later.BATCH_DEPLOYMENT, Kind.SCHEDULE: later.SCHEDULE}  # fmt: skip


def paths(shape: Shape, path: tuple[str, ...] = ()) -> set[str]:
    """Every field that a shape reads, names of the user's as `*`."""
    match shape:
        case Record(fields=fields):
            return {found for name, inner in fields.items() for found in paths(inner, (*path, name))}
        case Chosen(by=by, records=records):
            return {".".join((*path, by))} | {found for record in records.values() for found in paths(record, path)}
        case MapOf(values=inner):
            return paths(inner, (*path, "*"))
        case ListOf(items=inner) | Optional(shape=inner):
            return paths(inner, path)
        case Either(text=text, mapping=mapping):
            return paths(text, path) | paths(mapping, path)
        case _:
            return {".".join(path)}


def written_out(pattern: str) -> set[str]:
    found = [""]
    for step in pattern.split("."):
        found = [f"{before}.{name}" if before else name for before in found for name in step.split("|")]
    return set(found)


IDLE = {
    kind: {path for each in FIELDS if each.kind == kind.value and each.document for path in written_out(each.document)} for kind in Kind
}
# An environment or model inside another document says what it says by itself.
for _kind in (Kind.JOB, Kind.DEPLOYMENT):
    IDLE[_kind] |= {f"environment.{path}" for path in IDLE[Kind.ENVIRONMENT]}


@pytest.mark.parametrize("kind", list(Kind), ids=[kind.value for kind in Kind])
def test_every_field_of_a_document_is_acted_on_or_in_the_table(kind: Kind) -> None:
    if kind in KEPT:
        assert KEPT[kind] in later.ALL.values()
        return
    acted = set(ACTED_ON[kind].split())
    known = paths(JOBS["command"] if kind is Kind.JOB else SHAPES[kind])
    undecided = [
        path for path in known if path not in acted and not any(path == idle or path.startswith(f"{idle}.") for idle in IDLE[kind])
    ]
    assert sorted(undecided) == [], "decide: is it acted on (say so here), or does it belong into moorage.wire.idle.FIELDS?"
    known |= {path for record in JOBS.values() for path in paths(record)} if kind is Kind.JOB else set()
    assert [path for path in IDLE[kind] if not any(each == path or each.startswith(f"{path}.") for each in known)] == [], "stale"
    assert sorted(acted & IDLE[kind] - {"environment.name", "environment.version"}) == []


JOB: dict[str, Any] = {"command": "c", "environment": "azureml:e:1", "compute": "c"}
DEPLOYMENT: dict[str, Any] = {
    "name": "blue",
    "endpoint_name": "end",
    "model": "azureml:m:1",
    "environment": "azureml:e:1",
    "code_configuration": {"code": "azureml://datastores/d/paths/c", "scoring_script": "s.py"},
}
ENDPOINT = {"name": "end", "compute": "azureml:k"}
CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"
IDENTITY = {"type": "user_assigned", "user_assigned_identities": ["/i"]}
ASKING = [
    (Kind.JOB, JOB | {"identity": {"type": "managed"}}, ["identity"]),
    (Kind.JOB, JOB | {"services": {"s": {"type": "ssh", "ssh_public_keys": "k"}}}, ["services"]),
    (Kind.JOB, JOB | {"queue_settings": {"job_tier": "spot", "priority": "low"}}, ["queue_settings.job_tier, queue_settings.priority"]),
    (Kind.JOB, JOB | {"resources": {"docker_args": "-x"}}, ["resources.docker_args"]),
    (Kind.JOB, JOB | {"resources": {"locations": ["west"]}}, ["resources.locations"]),
    (Kind.JOB, JOB | {"resources": {"max_instance_count": 2}}, ["resources.max_instance_count"]),
    (Kind.JOB, JOB | {"resources": {"properties": {"a": {"b": 1}}}}, ["resources.properties"]),
    (Kind.JOB, JOB | {"inputs": {name: {"path": "azureml:d:1", "mode": "direct"} for name in "abcde"}}, ["inputs.a.mode, inputs.b.mode, inputs.c.mode and 2 more"]),
    (Kind.JOB, JOB | {"outputs": {"o": {"mode": "direct", "name": "n", "version": "1"}}}, ["outputs.o.mode"]),
    (Kind.ENVIRONMENT, {"name": "e", "image": "i", "os_type": "windows"}, ["os_type"]),
    (Kind.ENVIRONMENT, {"name": "e", "image": "i", "inference_config": {"scoring_route": {"port": 1, "path": "/"}}}, ["inference_config"]),
    (Kind.DATASTORE, {"name": "d", "type": "azure_blob", "account_name": "a", "container_name": "c"}, ["account_name"]),
    (Kind.COMPUTE, {"name": "c", "resource_id": CLUSTER, "identity": {"type": "system_assigned"}}, ["identity"]),
    (Kind.WORKSPACE, {"name": "ws", "identity": IDENTITY}, ["identity"]),
    (Kind.ENDPOINT, ENDPOINT | {"identity": IDENTITY}, ["identity"]),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"scale_settings": {"type": "target_utilization", "max_instances": 3}}, ["scale_settings"]),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"data_collector": {"collections": {"c": {"enabled": True}}}}, ["data_collector"]),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"app_insights_enabled": True}, ["app_insights_enabled"]),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"model_mount_path": "/m"}, ["model_mount_path"]),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"readiness_probe": {"path": "/p", "port": 1, "scheme": "https", "method": "GET"}},
     ["readiness_probe.scheme, readiness_probe.method, readiness_probe.path and 1 more"]),
]  # fmt: skip
PLAIN = [
    (Kind.JOB, JOB | {"inputs": {"n": 1, "d": {"path": "azureml:d:1", "mode": "ro_mount"}}, "outputs": {"o": {"mode": "upload"}}}),
    (Kind.ENVIRONMENT, {"name": "e", "image": "i"}),
    (Kind.DATASTORE, {"name": "d", "type": "azure_blob", "account_name": "h/blobstore/#", "container_name": "c"}),
    (Kind.COMPUTE, {"name": "c", "resource_id": CLUSTER}),
    (Kind.WORKSPACE, {"name": "ws"}),
    (Kind.ENDPOINT, ENDPOINT),
    (Kind.DEPLOYMENT, DEPLOYMENT | {"liveness_probe": {"period": 3}, "data_collector": {"collections": {"c": {"enabled": False}}}}),
]


def said(kind: Kind, values: dict[str, Any]) -> list[str]:
    """What the service says of a document's body."""
    document = load(kind, yaml.safe_dump(values), name="d.yml", folder=Path("/work"))
    sent = body(document, W, {use.field: "azureml:x:1" for use in uses(document)})
    return [message.partition(":")[0] for message in warnings(TYPES[kind.value], sent)]


@pytest.mark.parametrize(
    ("kind", "values", "expected"), ASKING, ids=[f"{kind.value}-{names[0].split(',')[0]}" for kind, _, names in ASKING]
)
def test_a_field_that_nothing_acts_on_is_named_as_the_document_has_it(kind: Kind, values: dict[str, Any], expected: list[str]) -> None:
    assert said(kind, values) == expected


def test_every_row_with_a_field_of_a_document_is_tried() -> None:
    tried = {(kind.value, path) for kind, _, names in ASKING for name in names for path in name.split(" and ")[0].split(", ")}
    shown = {(each.kind, path) for each in FIELDS if each.document and each.wire for path in written_out(each.document)}
    assert {(kind, path.replace(".*.", ".")) for kind, path in shown} - {
        (k, p.replace(".a.", ".").replace(".o.", ".")) for k, p in tried
    } <= {
        ("job", "inputs.mode"),
        *(
            ("online-deployment", f"{probe}_probe.{each}")
            for probe in ("liveness", "readiness")
            for each in ("scheme", "method", "path", "port")
        ),
    }


@pytest.mark.parametrize(("kind", "values"), PLAIN, ids=[kind.value for kind, _ in PLAIN])
def test_what_asks_for_nothing_more_is_not_warned_of(kind: Kind, values: dict[str, Any]) -> None:
    assert said(kind, values) == []


def test_what_only_the_api_can_say_is_named_as_it_is_sent() -> None:
    sent = {"keyVault": "/v", "hbiWorkspace": False, "managedNetwork": {"isolationMode": "Disabled"}, "encryption": {"status": "Enabled"}}
    found = [message.partition(":")[0] for message in warnings("workspaces", {"properties": sent | {"publicNetworkAccess": "Enabled"}})]
    assert found == ["properties.keyVault", "properties.encryption"]
    assert warnings("onlineEndpoints", {"properties": {"publicNetworkAccess": "Disabled"}})[0].startswith(
        "properties.publicNetworkAccess: stored: "
    )


def test_a_name_that_is_not_sent_is_told_by_the_command_line() -> None:
    values = JOB | {"environment": {"name": "mine", "image": "i"}}
    (message,) = unsent("job", values)
    assert message.startswith("environment.name: not sent: ") and unsent("job", JOB) == []
    steps = {"type": "pipeline", "jobs": {"a": {"type": "pipeline", "component": "azureml:c:1", "settings": {"force_rerun": True}}}}
    document = load(Kind.JOB, yaml.safe_dump(steps), name="d.yml", folder=Path("/work"))
    assert unsent("job", document.values)[0].startswith("jobs.a.settings: not sent: ")
    assert "settings" not in str(body(document, W, {use.field: "azureml:x:1" for use in uses(document)})["properties"]["jobs"])


def test_a_kind_that_does_not_run_is_named_once_and_its_fields_are_not() -> None:
    sweep = {"properties": {"jobType": "sweep", "identity": {"identityType": "Managed"}}}
    assert kept("jobs", sweep) == [later.STORED_JOBS["Sweep"].message] and warnings("jobs", sweep) == []
    assert kept("schedules", {}) == [later.SCHEDULE.message] and kept("jobs", {"properties": {"jobType": "Command"}}) == []


# What the rows of the table look for inside a field.
_INNER = ["type", "status", "isolationMode", "IsLocal", "scaleType", "collections", "dataCollectionMode", "jobType"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(_INNER), inner),
)
_WIRE = [(each.type, path) for each in FIELDS if each.wire for path in sorted(written_out(each.wire))]


@settings(max_examples=200)
@given(st.sampled_from(_WIRE), st.integers(0, 4), JSON)
def test_any_body_is_looked_at(place: tuple[str, str], depth: int, value: Any) -> None:
    """Most fields are nobody's, so nobody has checked them: anything may stand at, or on the way to, each of them."""
    type, path = place
    sent = value
    for step in reversed(path.split(".")[: depth + 1]):
        sent = {step: sent}
    assert all(isinstance(message, str) for message in [*warnings(type, sent), *kept(type, sent)])


@pytest.mark.parametrize(
    ("collections", "warned"), [({"a": {"dataCollectionMode": "Enabled"}}, 1), ({"a": {}}, 0), ([1], 1), ("x", 1), ([], 0)]
)
def test_collections_of_any_form_are_told_apart(collections: object, warned: int) -> None:
    sent = {"properties": {"dataCollector": {"collections": collections}}}
    assert len(warnings("onlineEndpoints/deployments", sent)) == warned


@given(st.lists(st.text(max_size=80)))
def test_warnings_come_out_of_the_header_as_they_went_in(messages: list[str]) -> None:
    made = header(messages).get(HEADER, "")
    found = read_header(made)
    assert made.isascii() and made.isprintable()
    assert [text for text, message in zip(found, messages, strict=True) if message.isascii() and message.isprintable()] == [
        " ".join(message.split()) for message in messages if message.isascii() and message.isprintable()
    ]


def test_other_warnings_in_the_header_are_passed_over() -> None:
    assert read_header('110 proxy "stale", 299 moorage "one, \\"two\\""') == ['one, "two"']
