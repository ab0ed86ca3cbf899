"""What is refused, and how it is said: every message names the line, the field, the reason and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.errors import Conflict, Invalid, MoorageError, NotFound
from moorage.wire.documents.document import Document, Kind, load

JOB = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
type: command
command: python train.py --n ${{inputs.n}}
environment: azureml:sklearn:1
inputs:
  n: 3
"""


def check(text: str, kind: Kind = Kind.JOB, *changes: str) -> Document:
    return load(kind, text, name="train.yml", folder=Path("/work"), changes=changes)


def refusal(text: str, kind: Kind = Kind.JOB, *changes: str) -> str:
    with pytest.raises(Invalid) as caught:
        check(text, kind, *changes)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("command: [\n", "train.yml:2: this is not valid YAML"),
        ("command: a\n\tcode: b", "train.yml:2: YAML does not allow tabs for indentation"),
        ("", "train.yml: the document is empty."),
        ("- a", "train.yml:1: the document must be a mapping"),
        ("a: 1\n---\nb: 2", "train.yml:2: this is not valid YAML: but found another document"),
        (JOB + "compute: c\ncompute: d", "train.yml:8: compute: the field is given twice (first at train.yml:7); keep one."),
        (JOB + "display_name: “My job”", "train.yml:7: display_name: typographic quotes are part of the value “My job”"),
        (JOB + "tags: !!python/object:os.system {}", "train.yml:7: tags: "),
        (JOB + "tags: {a: !secret b}", "train.yml:7: tags.a: the YAML tag '!secret' is not supported"),
        ("a: &a [*a]", "aliases make it endless"),
        ("\x00a: 1", "the character #x0000 is not allowed"),
    ],
)
def test_text_that_is_no_document_is_refused_with_its_line(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("enviroment: x", "train.yml:7: enviroment: unknown field. Did you mean 'environment'?"),
        ("zzz: x", "train.yml:7: zzz: unknown field. Known here: code, command, compute"),
        ("instance_type: gpu", "train.yml:7: instance_type: unknown field here. It stands under resources"),
        ("resources: {instance_count: two}", "train.yml:7: resources.instance_count: expected a whole number, found the text 'two'."),
        ("resources: {instance_count: 0}", "0 is out of range: a whole number at least 1 is needed."),
        ("resources: {instance_count: 1.5}", "expected a whole number, found 1.5."),
        ("resources: gpu", "train.yml:7: resources: expected a mapping of instance_count, instance_type"),
        ("compute: {name: x}", "compute: expected text, found a mapping."),
        ("compute: a b", "compute: 'a b' is not the name of a compute target; write azureml:NAME."),
        ("tags: [a]", "tags: expected a mapping (`name: value`), found a list."),
        ("distribution: {type: horovod}", "distribution.type: 'horovod' is not one of pytorch, mpi, tensorflow."),
        ("distribution: {process_count_per_instance: 1}", "distribution.type: is required, and is missing"),
        ("distribution: {type: pytorch, worker_count: 1}", "distribution.worker_count: unknown field."),
        ("limits: {timeout: .inf}", "limits.timeout: expected a whole number, found the number .inf."),
        ("outputs: {my-out: {}}", "outputs.my-out: 'my-out' is not a valid name: letters, digits and '_'"),
        ("outputs: {o: {path: ./here}}", "outputs.o.path: './here' is a local path; an output goes to azureml://datastores/"),
        ("outputs: {o: {mode: ro_mount}}", "outputs.o.mode: 'ro_mount' is not one of rw_mount, mount, upload, direct."),
        ("code: git+https://example.org/x", "code in a git repository is not supported yet"),
        ("properties: {a: [1]}", "properties.a: expected text, found a list."),
    ],
)
def test_a_wrong_field_is_refused_with_line_field_and_reason(line: str, expected: str) -> None:
    assert expected in refusal(JOB + line)


def test_nested_positions_are_those_of_the_value_itself() -> None:
    text = JOB.replace("  n: 3\n", "  n: 3\n  data:\n    type: uri_file\n    path: azureml:a:1:2\n")
    assert refusal(text) == (
        "train.yml:9: inputs.data.path: 'azureml:a:1:2' is no asset reference; write azureml:NAME:VERSION or azureml:NAME@latest "
        "(letters, digits, '.', '_' and '-', at most 255)."
    )


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        check(JOB + "foo: 1\nbar: 2\nlimits: {timeout: x}")
    assert len(caught.value.details) == 3
    assert caught.value.message.count("\n") == 2


def test_missing_required_fields_are_named() -> None:
    assert refusal("type: command\n") == (
        "train.yml:1: command: is required, and is missing.\ntrain.yml:1: environment: is required, and is missing."
    )


def test_a_placeholder_that_names_no_input_is_refused() -> None:
    text = JOB.replace("--n ${{inputs.n}}", "${{inputs.m}} ${{outputs.o}}")
    assert "'${{inputs.m}}' names no field under inputs; it has n." in refusal(text)
    assert "'${{outputs.o}}' names no field under outputs; it has none." in refusal(text)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (
            Kind.JOB,
            "type: automl\n",
            "train.yml:1: type: 'automl': automated machine learning is not supported yet; submit a command job for each setting.",
        ),
        (Kind.JOB, "type: spark\n", "train.yml:1: type: 'spark': Spark jobs are not supported yet; run Spark in a command job."),
        (Kind.JOB, "type: parallel\n", "train.yml:1: type: 'parallel': a parallel job runs inside a pipeline; make it a step of one."),
        (Kind.JOB, "type: comand\n", "train.yml:1: type: 'comand' is not one of command, sweep, pipeline. Did you mean 'command'?"),
        (
            Kind.COMPUTE,
            "type: amlcompute\n",
            "type: 'amlcompute': machines are not created here; attach a Kubernetes cluster (kubernetesCompute).",
        ),
        (Kind.DATASTORE, "type: azure_file\n", "type: 'azure_file': file shares are not supported as datastores;"),
        (Kind.WORKSPACE, "name: w\nhbi_workspace: true\n", "train.yml:2: hbi_workspace: is part of the original's own cloud"),
        (Kind.DATA, "name: d\npath: p\nsource: {type: s3}\n", "train.yml:3: source: imports are not supported yet;"),
        (Kind.WORKSPACE, "name: w\nkey_vault: /subscriptions/x\n", "train.yml:2: key_vault: is part of the original's own cloud"),
        (
            Kind.JOB,
            "$schema: https://x/autoMLJob.schema.json\n",
            "train.yml:1: $schema: 'autoMLJob': automated machine learning is not supported yet",
        ),
    ],
)
def test_what_is_not_supported_is_refused_with_the_reason_of_the_list(kind: Kind, text: str, expected: str) -> None:
    assert expected in refusal(text, kind)


def test_credentials_that_are_no_mapping_are_not_repeated() -> None:
    """Messages stand in the logs of whoever runs the command."""
    said = refusal("type: azure_blob\naccount_name: a\ncontainer_name: c\ncredentials: open-sesame\n", Kind.DATASTORE)
    assert "credentials: expected a mapping of account_key, sas_token" in said and "sesame" not in said


STEPS = """\
inputs: {n: 1}
outputs: {m: {}}
jobs:
  a:
    command: echo ${{inputs.n}}
    environment: azureml:e:1
    inputs: {n: "${{parent.inputs.n}}"}
    outputs: {o: {}}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jobs: {a: {}}", "jobs.a.component: is required, and is missing: a component, or the command itself."),
        ("inputs: {a: 1}\ntype: pipeline", "jobs: give either 'jobs', the steps, or 'component', a pipeline component."),
        (
            STEPS.replace("parent.inputs.n}", "parent.inputs.k}"),
            "train.yml:7: jobs.a.inputs.n: '${{parent.inputs.k}}' names no field under inputs",
        ),
        (STEPS.replace("{o: {}}", '{o: "${{parent.outputs.x}}"}'), "names no field under outputs of the pipeline; it has m."),
        (STEPS.replace("parent.inputs.n}", "parent.jobs.z.outputs.o}"), "names no step; there are a."),
        (STEPS.replace("{o: {}}", '{o: {path: "${{parent.outputs.x}}"}}'), "names no field under outputs of the pipeline; it has m."),
        (STEPS.replace("{o: {}}", "{o: {path: ./here}}"), "jobs.a.outputs.o.path: './here' is a local path;"),
        (STEPS + '    compute: "${{parent.inputs.k}}"\n', "jobs.a.compute: '${{parent.inputs.k}}' names no field under inputs"),
        (STEPS + '    compute: "${{parent.outputs.m}}"\n', "jobs.a.compute: '${{parent.outputs.m}}' names no input; write"),
        (STEPS + "  b: {type: spark}\n", "jobs.b.type: 'spark': Spark jobs are not supported yet; run Spark in a command job."),
        (STEPS + "    instance_count: 2\n", "jobs.a.instance_count: unknown field here. It stands under resources"),
        (STEPS + "    typ: sweep\n", "jobs.a.typ: unknown field. Did you mean 'type'?"),
        (STEPS + "settings: {default_computer: k8s}\n", "settings.default_computer: unknown field. Did you mean 'default_compute'?"),
    ],
)
def test_a_pipeline_s_steps_are_checked_with_their_bindings(text: str, expected: str) -> None:
    assert expected in refusal(text)


SWEEP = """\
type: sweep
trial: {command: echo, environment: azureml:e:1}
sampling_algorithm: random
search_space: {lr: {type: uniform, min_value: 0, max_value: 1}}
objective: {goal: maximize, primary_metric: acc}
limits: {max_total_trials: 2}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("uniform", "unifrom", "search_space.lr.type: 'unifrom' is not one of choice, uniform"),
        ("min_value: 0, ", "", "search_space.lr.min_value: is required, and is missing."),
        ("maximize", "max", "objective.goal: 'max' is not one of maximize, minimize."),
        ("max_total_trials: 2", "timeout: 2", "limits.max_total_trials: is required, and is missing."),
        ("command: echo, ", "", "trial.command: is required, and is missing."),
        ("command: echo", "command: 'echo ${{inputs.x}}'", "trial.command: '${{inputs.x}}' names no field under inputs; it has none."),
    ],
)
def test_a_sweep_is_checked(old: str, new: str, expected: str) -> None:
    assert expected in refusal(SWEEP.replace(old, new))


def test_set_reaches_into_steps_and_lists() -> None:
    document = check(STEPS, Kind.JOB, "jobs.a.inputs.n=5", "jobs.a.resources.instance_count=2", "tags.run=7")
    assert document.values["jobs"]["a"]["inputs"] == {"n": "5"}
    assert document.values["jobs"]["a"]["resources"] == {"instance_count": 2}
    space = check(
        SWEEP, Kind.JOB, 'search_space.b={"type": "choice", "values": [1, 2]}', "search_space.b.values[1]=3", "search_space.b.values[2]=4"
    )
    assert space.values["search_space"]["b"]["values"] == [1, 3, 4]


def test_a_document_of_another_kind_names_its_command() -> None:
    text = "$schema: https://azuremlschemas.azureedge.net/latest/environment.schema.json\nname: e\nimage: i\n"
    assert "did you mean `moorage environment create`?" in refusal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: e", "image: is required, and is missing: an environment is an image"),
        ("name: e\nimage: i\nbuild: {path: .}", "train.yml:3: build: give either 'image' or 'build', not both."),
        ("name: e\nimage: i\ndependencies: [numpy]", "dependencies: belongs into the conda file"),
        ("name: e\nimage: i\nrequirements: r.txt", "requirements: unknown field. List pip packages in the conda file"),
        ("name: e\nimage: i\nconda_file: {channels: [x]}", "conda_file: a conda file needs 'dependencies'"),
        ("name: e\nimage: i\nconda_file: {dependencies: [{pip: ['-r r.txt']}]}", "'-r r.txt' under pip names a file that does not travel"),
        ("name: a/b\nimage: i", "name: 'a/b' is not a valid name"),
    ],
)
def test_a_wrong_environment_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(text, Kind.ENVIRONMENT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: e\n", "compute: is required, and is missing."),
        ("name: ab\ncompute: c", "name: 'ab' is not a valid name: 3 to 32 letters"),
        ("name: abc\ncompute: c\ntraffic: {a: 60, b: 60}", "train.yml:3: traffic: the shares add up to 120; they must not exceed 100."),
        ("name: abc\ncompute: c\nmirror_traffic: {a: 60}", "mirror_traffic: at most 50 per cent"),
        ("name: abc\ncompute: c\nauth_mode: keys", "auth_mode: 'keys' is not one of key, aml_token, aad_token"),
        ("name: abc\ncompute: c\npublic_network_access: enabled", "is a field of managed endpoints"),
        (
            "$schema: https://x/managedOnlineEndpoint.schema.json\nname: abc",
            "managed endpoints run in the original's own cloud; add `compute: azureml:NAME`",
        ),
    ],
)
def test_a_wrong_endpoint_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(text, Kind.ENDPOINT)


DEPLOYMENT = "name: blue\nendpoint_name: digits\nmodel: azureml:m:1\nenvironment: azureml:e:1\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("resources: {requests: {cpu: lots}}", "resources.requests.cpu: 'lots' is no Kubernetes quantity such as 500m, 2 or 1.5Gi."),
        ("resources: {limits: {amd.com/gpu: 1}}", "resources.limits.amd.com/gpu: unknown field. Did you mean 'nvidia.com/gpu'?"),
        (
            "scale_settings: {type: target_utilization, min_instances: 3, max_instances: 2}",
            "max_instances: 2 is less than min_instances (3).",
        ),
        ("instance_count: 2\nscale_settings: {type: target_utilization}", "instance_count: with scale_settings of type target_utilization"),
        ("code_configuration: {code: .}", "code_configuration.scoring_script: is required, and is missing."),
        ("request_settings: {request_timeout_ms: 0}", "request_settings.request_timeout_ms: 0 is out of range"),
        ("egress_public_network_access: disabled", "is a field of managed endpoints"),
    ],
)
def test_a_wrong_deployment_is_refused(line: str, expected: str) -> None:
    assert expected in refusal(DEPLOYMENT + line, Kind.DEPLOYMENT)


def test_a_compute_names_both_forms_of_a_cluster_id() -> None:
    message = refusal("name: c\nresource_id: /x\nnamespace: My_NS", Kind.COMPUTE)
    assert "Microsoft.Kubernetes/connectedClusters/NAME" in message
    assert "namespace: 'My_NS' is not the name of a namespace" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("inputs.n", "--set inputs.n: write it as path=value"),
        ("=3", "write it as path=value"),
        ("inputs.n.x=3", "--set inputs.n.x: inputs.n is '3', which has no field 'x'."),
        ("limits.timeout=soon", "--set limits.timeout: limits.timeout: expected a whole number, found the text 'soon'."),
        ("command.[0]=3", "command is"),
        ("colour=red", "--set colour: colour: unknown field."),
    ],
)
def test_a_wrong_setting_is_reported_like_a_wrong_line(change: str, expected: str) -> None:
    assert expected in refusal(JOB, Kind.JOB, change)


def test_settings_take_json_lists_quoted_names_and_plain_text() -> None:
    found = check(
        JOB,
        Kind.JOB,
        "inputs.n=7",
        'tags={"a": "1"}',
        "tags.b=two words: yes",
        'properties."a.b"=x',
        "limits.timeout=60",
        "display_name=#1 of all",
        "code=null",
    )
    values = found.values
    assert values["inputs"] == {"n": "7"}
    assert values["tags"] == {"a": "1", "b": "two words: yes"}
    assert values["properties"] == {"a.b": "x"}
    assert values["limits"] == {"timeout": 60}
    assert values["display_name"] == "#1 of all"
    assert "code" not in values


def test_a_list_item_can_be_changed_and_appended() -> None:
    text = "name: c\nresource_id: /subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c\n"
    found = check(
        text,
        Kind.COMPUTE,
        "identity.type=user_assigned",
        'identity.user_assigned_identities=["a"]',
        "identity.user_assigned_identities[1]=b",
        "identity.user_assigned_identities[0]=z",
    )
    assert found.values["identity"]["user_assigned_identities"] == ["z", "b"]
    assert "there is no item 5" in refusal(
        text, Kind.COMPUTE, "identity.user_assigned_identities=[]", "identity.user_assigned_identities[5]=b"
    )


def test_versions_keep_how_they_were_written() -> None:
    assert check("name: e\nversion: 1.10\nimage: i", Kind.ENVIRONMENT).values["version"] == "1.10"
    assert check("name: e\nversion: 2026-11-22\nimage: i", Kind.ENVIRONMENT).values["version"] == "2026-11-22"


def test_anchors_and_merge_keys_work() -> None:
    text = JOB + "environment_variables: &base {A: '1', B: '2'}\ntags:\n  <<: *base\n  B: '3'\n"
    assert check(text).values["tags"] == {"B": "3", "A": "1"}


def test_options_win_over_the_document_and_settings() -> None:
    found = load(Kind.JOB, JOB + "name: a", name="t", folder=Path(), changes=["name=b"], options={"name": "c"})
    assert found.values["name"] == "c"


def test_what_the_service_refuses_is_said_of_the_document_s_field_where_it_has_one() -> None:
    text = "command: echo\nenvironment: {image: i}\ncompute: azureml:c\ninputs: {myData: {type: uri_file, path: 'azureml:d:1'}}\n"
    document = load(Kind.JOB, text, name="train.yml", folder=Path())
    for target, at in (
        ("properties.computeId", "train.yml:3: compute: "),
        ("properties.inputs.myData.uri", "train.yml:4: inputs.myData.path: "),
        ("properties.resources.instanceType", "properties.resources.instanceType: "),
        ("/subscriptions/s", "/subscriptions/s: "),
        ("", ": "),
    ):
        with pytest.raises(Invalid) as refused, document.answering():
            raise Invalid(f"{target}: is not there.", code="Absent", target=target)
        assert (refused.value.message, refused.value.code) == (f"{at}is not there.", "Absent")


CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"


@pytest.mark.parametrize(("kind", "text", "target", "said"), [
    (Kind.COMPUTE, f"name: local\ntype: kubernetes\nresource_id: {CLUSTER}\nnamespace: n\n", "properties.resourceId", "c.yml:3: resource_id: "),
    (Kind.COMPUTE, f"name: local\ntype: kubernetes\nresource_id: {CLUSTER}\nnamespace: n\n", "properties.properties.namespace", "c.yml:4: namespace: "),
    (Kind.BATCH_ENDPOINT, "name: nightly\ndefaults: {deployment_name: first}\n", "properties.defaults.deploymentName", "c.yml:2: defaults.deployment_name: "),
])  # fmt: skip
@pytest.mark.parametrize("class_", [Invalid, Conflict, NotFound])
def test_every_refusal_of_a_field_is_said_of_the_document_s(
    kind: Kind, text: str, target: str, said: str, class_: type[MoorageError]
) -> None:
    document = load(kind, text, name="c.yml", folder=Path())
    with pytest.raises(class_) as refused, document.answering():
        raise class_(f"{target}: is not there.", code="Absent", target=target)
    assert (refused.value.message, refused.value.code) == (f"{said}is not there.", "Absent")


def test_of_several_fields_that_the_service_refuses_each_is_said_of_the_document_s() -> None:
    document = load(Kind.JOB, "command: echo\nenvironment: {image: i}\ncompute: azureml:c\n", name="train.yml", folder=Path())
    targets = ("properties.computeId", "properties.resources.shmSize", "properties.command")
    findings = tuple(Invalid(f"{target}: is wrong.", target=target) for target in targets)
    with pytest.raises(Invalid) as refused, document.answering():
        raise Invalid(" ".join(each.message for each in findings), target=targets[0], details=findings)
    assert refused.value.message.splitlines() == [
        "train.yml:3: compute: is wrong.",
        "properties.resources.shmSize: is wrong.",
        "train.yml:1: command: is wrong.",
    ]
