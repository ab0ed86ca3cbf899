"""Command job bodies and their TrainingJobs: whole manifests, and messages that name field and remedy."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.ids import Workspace, kube_name
from moorage.specs.jobs import TERMINAL, JobStatus, advance
from moorage.specs.manifest import Manifest
from moorage.wire.assets import Environment, JobAssets
from moorage.wire.jobs import read_command_job
from moorage.wire.manifests import Placement, cancelled, training_job
from moorage.wire.runs import JobState, observe, run_details, run_output_type

WS = Workspace("s", "g", "w")
PLACE = Placement(WS, "local", "ml")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def body(**changes: object) -> Manifest:
    full: Manifest = {
        "jobType": "Command",
        "experimentName": "digits",
        "command": "python train.py --n ${{inputs.n}} --data ${{inputs.f}} --out ${{outputs.out}} $[[--x ${{inputs.x}}]]",
        "codeId": WS.child("codes", "c", "versions", "1"),
        "environmentId": WS.child("environments", "e", "versions", "1"),
        "computeId": WS.child("computes", "local"),
        "environmentVariables": {"MYVAR": "v1"},
        "inputs": {
            "n": {"jobInputType": "literal", "value": "7"},
            "f": {"jobInputType": "uri_file", "uri": "azureml://datastores/workspaceblobstore/paths/x/in.csv"},
        },
        "outputs": {"out": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}},
        "resources": {"instanceType": "gpu", "instanceCount": 2, "shmSize": "3g"},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "limits": {"jobLimitsType": "Command", "timeout": "PT20M"},
        "queueSettings": {"jobTier": "Standard", "priority": 2},
        "_source": "SDK",
    }
    return {**full, **changes}


ASSETS = JobAssets(
    Environment("e:1", image="img", conda="name: x", pip=()),
    artifacts="K-artifact/ExperimentRun/dcid.j_1",
    code="K-code-1/src",
    inputs={"f": "K-blob/x/in.csv"},
    outputs={"out": "K-blob/azureml/j_1/out"},
)


def test_a_whole_command_job_becomes_a_whole_training_job() -> None:
    manifest = training_job(PLACE, "j_1", read_command_job(body()), ASSETS, instance_type="gpu")
    name = kube_name(WS, "j_1")
    assert manifest == {
        "apiVersion": "moorage.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "labels": {
                "moorage.dev/desired": "true",
                "moorage.dev/job": name,
                "app.kubernetes.io/managed-by": "moorage",
                "ml.azure.com/workspace": "w",
                "ml.azure.com/resource-group": "g",
                "ml.azure.com/compute": "local",
            },
        },
        "spec": {
            "subscription": "s",
            "resourceGroup": "g",
            "workspace": "w",
            "compute": "local",
            "job": "j_1",
            "experiment": "digits",
            "command": "python train.py --n ${{inputs.n}} --data ${{inputs.f}} --out ${{outputs.out}} $[[--x ${{inputs.x}}]]",
            "environmentVariables": {"MYVAR": "v1"},
            "environment": {"name": "e:1", "image": "img", "conda": "name: x", "hash": manifest["spec"]["environment"]["hash"]},
            "code": {"uri": "K-code-1/src"},
            "inputs": {"n": {"type": "literal", "value": "7"}, "f": {"type": "uri_file", "uri": "K-blob/x/in.csv"}},
            "outputs": {"out": {"type": "uri_folder", "uri": "K-blob/azureml/j_1/out", "mode": "ReadWriteMount"}},
            "artifactsUri": "K-artifact/ExperimentRun/dcid.j_1",
            "resources": {"instanceType": "gpu", "instanceCount": 2, "shmSize": "3Gi"},
            "distribution": {"type": "PyTorch", "processCountPerInstance": 2},
            "limits": {"timeoutSeconds": 1200},
            "priority": 2,
        },
    }
    assert cancelled(manifest)["spec"]["cancelRequested"] is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": ""}, "properties.command: string should have at least 1 character"),
        ({"command": "echo \0"}, "properties.command: contains a NUL character"),
        ({"environmentVariables": {"A": "\0"}}, "properties.environmentVariables.A: contains a NUL character"),
        (
            {"inputs": {"n": {"jobInputType": "literal", "value": "\0"}, "f": {"jobInputType": "uri_file", "uri": "f"}}},
            "inputs.n.value: contains a NUL",
        ),
        ({"environmentId": None}, "properties.environmentId"),
        ({"command": "x ${{inputs.zz}}"}, "${{inputs.zz}}, which the job does not have. It has: inputs.f, inputs.n, outputs.out"),
        ({"command": "x ${{outputs.zz}}"}, "${{outputs.zz}}, which the job does not have"),
        ({"command": "x ${{search_space.lr}}"}, "${{search_space.lr}}, which the job does not have"),
        (
            {"inputs": {"n": {"jobInputType": "literal"}, "f": {"jobInputType": "uri_file"}}},
            "properties.inputs.f: a uri_file input needs 'uri'",
        ),
        ({"limits": {"timeout": "20m"}}, "properties.limits.timeout: '20m' is not an ISO 8601 duration"),
        ({"resources": {"instanceCount": 0}}, "properties.resources.instanceCount"),
        ({"distribution": {"distributionType": "Ray"}}, "properties.distribution.distributionType"),
        ({"outputs": {"out": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/d/paths/${{when}}"}}}, "only ${{name}}"),
        ({"jobType": "Ray"}, "properties.jobType: input should be 'Command'"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(change: Manifest, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_command_job(body(**change))
    assert words in caught.value.message


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        read_command_job(body(command="", resources={"instanceCount": 0}))
    assert {finding.target for finding in caught.value.details} == {"properties.command", "properties.resources.instanceCount"}


@pytest.mark.parametrize(
    ("current", "phase", "complete", "following"),
    [
        (JobStatus.NOT_STARTED, "Queued", False, JobStatus.QUEUED),
        (JobStatus.RUNNING, "Completed", False, JobStatus.FINALIZING),
        (JobStatus.FINALIZING, "Completed", True, JobStatus.COMPLETED),
        (JobStatus.COMPLETED, "Running", True, JobStatus.COMPLETED),
        (JobStatus.CANCELED, "Completed", True, JobStatus.CANCELED),
        (JobStatus.CANCEL_REQUESTED, "Running", False, JobStatus.CANCEL_REQUESTED),
        (JobStatus.CANCEL_REQUESTED, "Canceled", False, JobStatus.CANCEL_REQUESTED),
        (JobStatus.CANCEL_REQUESTED, "Canceled", True, JobStatus.CANCELED),
        (JobStatus.RUNNING, "", False, JobStatus.RUNNING),
        (JobStatus.RUNNING, "SomethingNew", True, JobStatus.RUNNING),
    ],
)
def test_a_state_advances_by_rule(current: JobStatus, phase: str, complete: bool, following: JobStatus) -> None:
    assert advance(current, phase, logs_complete=complete) is following


PHASES = st.sampled_from(["", "Queued", "Preparing", "Running", "Finalizing", "Completed", "Failed", "Canceled"])


@given(st.lists(st.tuples(PHASES, st.booleans()), max_size=12))
def test_a_terminal_state_is_never_left_and_repeats_change_nothing(reports: list[tuple[str, bool]]) -> None:
    state, ended = JobState(), None
    for phase, complete in reports:
        state = observe(state, {"phase": phase, "message": phase}, logs_complete=complete, now=NOW)
        assert observe(state, {"phase": phase, "message": phase}, logs_complete=complete, now=NOW) == state
        ended = ended or (state if state.status in TERMINAL else None)
        if ended is not None:
            assert state == ended


def test_a_waiting_job_says_why_in_its_details() -> None:
    state = observe(
        JobState(), {"phase": "Queued", "message": "0/2 nodes are available: 2 Insufficient cpu."}, logs_complete=False, now=NOW
    )
    details = run_details("j", state, {}, {})
    assert details["warnings"] == [{"source": "compute", "message": "0/2 nodes are available: 2 Insufficient cpu."}]
    assert details["moorage"]["waiting"] == "0/2 nodes are available: 2 Insufficient cpu."
    assert details["logFiles"] == {} and details["error"] is None


def test_a_job_that_ended_well_still_tells_what_of_its_outputs_is_not_stored() -> None:
    pods = [{"name": "p", "notice": "It runs on Python 3.12.", "outputs": "x is a link."}, {"name": "q", "outputs": "x is a link."}]
    state = observe(JobState(), {"phase": "Completed", "pods": pods}, logs_complete=True, now=NOW)
    assert run_details("j", state, {}, {})["warnings"] == [
        {"source": "environment", "message": "It runs on Python 3.12."},
        {"source": "outputs", "message": "x is a link."},
    ]


def test_a_failed_job_carries_its_message_as_error() -> None:
    status = {
        "phase": "Failed",
        "reason": "UserError",
        "message": "exit code 1\nValueError: x",
        "exitCode": 1,
        "completionTime": "2026-11-22T12:00:09Z",
    }
    details = run_details("j", observe(JobState(), status, logs_complete=True, now=NOW), {}, {"user_logs/std_log.txt": "https://h/x"})
    assert details["error"]["error"]["message"] == "exit code 1\nValueError: x"
    assert details["endTimeUtc"] == "2026-11-22T12:00:09.000000Z"


def test_models_are_folders_to_run_history() -> None:
    assert [run_output_type(kind, pascal=False) for kind in ("custom_model", "uri_file", "mltable")] == [
        "uri_folder",
        "uri_file",
        "mltable",
    ]
    assert run_output_type("mlflow_model", pascal=True) == "UriFolder"
