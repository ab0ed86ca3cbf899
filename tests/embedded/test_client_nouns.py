"""The nouns and verbs that scripts written for `az ml` use, against the real service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.client_peers import Agent, Run, agent, client, moorage, profile, service, token

from moorage.client.connection import Client
from moorage.client.profile import Profile, save

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]

DOCUMENTS = {
    "model": "name: NAME\nversion: '1'\npath: azureml://datastores/workspaceblobstore/paths/m/\ndescription: first\n",
    "data": "name: NAME\nversion: '1'\ntype: uri_folder\npath: azureml://datastores/workspaceblobstore/paths/d/\ndescription: first\n",
    "environment": "name: NAME\nversion: '1'\nimage: python:3.11\ndescription: first\n",
    "component": "name: NAME\nversion: '1'\ncommand: echo\nenvironment: azureml:AzureML-sklearn-1.5@latest\ndescription: first\n",
}
JOB = "type: command\ncommand: echo hello\nenvironment: {image: 'python:3.11'}\ncompute: azureml:local\ntags: {a: '1', b: '2'}\n"


def good(answer: tuple[int, str, str]) -> Any:
    """What a command printed, once it has succeeded."""
    code, out, err = answer
    assert code == 0, err
    return json.loads(out) if out.strip() else None


def document(folder: Path, text: str, name: str = "document.yml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("noun", sorted(DOCUMENTS))
def test_words_about_a_version_change_and_it_is_archived_and_restored(noun: str, moorage: Run, tmp_path: Path) -> None:
    name = f"{noun}-edited"
    good(moorage(noun, "create", "-f", document(tmp_path, DOCUMENTS[noun].replace("NAME", name))))
    given = ("update", "-n", name, "--label", "latest", "--set", "description=second", "--tags", "team=vision", "--set", "tags.n=1")
    made = good(moorage(noun, *given))
    assert (made["version"], made["description"], made["tags"]) == ("1", "second", {"team": "vision", "n": "1"})
    assert good(moorage(noun, "show", "-n", name, "-v", "1"))["description"] == "second"
    assert good(moorage(noun, "update", "-n", name, "-v", "1", "--set", "tags.team=null"))["tags"] == {"n": "1"}
    assert good(moorage(noun, "update", "-n", name, "-v", "1", "--set", "tags.m=1", "--force-string", "--remove", "tags.n"))["tags"] == {
        "m": "1"
    }
    code, _, err = moorage(noun, "update", "-n", name, "-v", "1", "--set", "path=elsewhere")
    assert code == 2 and f"of a {noun} only " in err and "create a new version" in err

    for scope, listed in ((("-v", "1"), ("list", "-n", name)), ((), ("list",))):
        for verb, shown in (("archive", False), ("restore", True)):
            good(moorage(noun, verb, "-n", name, *scope))
            assert (name in [each["name"] for each in good(moorage(noun, *listed))]) is shown, (verb, scope)
    assert good(moorage(noun, "show", "-n", name, "-v", "1"))["description"] == "second"


def test_files_go_into_the_datastore_that_is_named(moorage: Run, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("w")
    for given, kept in (("workspaceartifactstore", "workspaceartifactstore"), ("azureml:workspaceblobstore", "workspaceblobstore")):
        made = good(moorage("model", "create", "-n", "placed", "-p", str(tmp_path / "w"), "--datastore", given))
        assert f"/datastores/{kept}/paths/LocalUpload/" in made["path"]
        assert moorage("model", "download", "-n", "placed", "-v", made["version"], "-p", str(tmp_path / kept))[0] == 0
        assert (tmp_path / kept / "placed" / "w").read_text() == "w"
    assert moorage("model", "create", "-n", "placed", "-p", str(tmp_path / "w"), "--datastore", "absent")[0] == 3


def test_a_job_is_checked_submitted_written_down_and_renamed(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    path = document(tmp_path, JOB)
    assert good(moorage("job", "validate", "-f", path)) == {"result": "Succeeded", "errors": []}
    code, _, err = moorage("job", "validate", "-f", path, "--set", "compute=azureml:nowhere", "--set", "environment=azureml:none:1")
    assert code == 2 and "there is no compute target 'nowhere'; there are: local." in err and "there is no environment 'none'" in err
    assert good(moorage("job", "list", "--query", "[].name")) == [], "nothing was submitted"

    code, out, err = moorage("job", "create", "-f", path, "-n", "named", "--web", "--save-as", str(tmp_path / "job.json"), "--tags", "c=3")
    assert code == 0 and "--web: there is no web page to open yet; follow it with `moorage job stream -n named`" in err
    assert json.loads((tmp_path / "job.json").read_text()) == json.loads(out)
    assert good(moorage("job", "show", "-n", "named", "--web"))["tags"] == {"a": "1", "b": "2", "c": "3"}

    made = good(
        moorage(
            "job", "update", "-n", "named", "--set", "tags.a=9", "--set", "tags.b=null", "--set", "description=d", "--set", "display_name=x"
        )
    )
    assert (made["tags"], made["description"], made["display_name"]) == ({"a": "9", "c": "3"}, "d", "x")
    assert good(moorage("job", "show", "-n", "named"))["command"] == "echo hello"
    code, _, err = moorage("job", "update", "-n", "named", "--set", "command=other")
    assert code == 2 and "submit another job" in err
    code, out, err = moorage("job", "update", "-n", "named", "--set", "experiment_name=other", "--set", "description=e")
    assert code == 0 and "warning: experiment_name: a job stays in the experiment" in err and json.loads(out)["description"] == "e"
    code, out, err = moorage("job", "update", "-n", "named", "--set", "experiment_name=other")
    assert code == 0 and "warning: experiment_name" in err and json.loads(out)["experiment_name"] != "other"
    assert good(moorage("job", "list", "--tag", "a=9", "--query", "[].name")) == ["named"]
    assert good(moorage("job", "list", "-p", "named")) == []


def test_a_job_that_is_there_already_is_not_said_to_be_submitted(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    create = ("job", "create", "-f", document(tmp_path, JOB), "-n", "once")
    assert "job once is submitted" in moorage(*create)[2]
    code, out, err = moorage(*create)
    assert code == 0 and json.loads(out)["name"] == "once"
    assert "job once is there already, and is not run again: another --name runs it anew" in err and "is submitted" not in err
    code, _, err = moorage("model", "show", "-n", "absent", "--label", "latest")
    assert code == 3 and "there is no model named 'absent'. See what there is: moorage model list." in err


def test_the_services_of_a_job_are_shown_with_what_became_of_them(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    path = document(tmp_path, JOB + "services: {notebook: {type: jupyter_lab}}\n")
    good(moorage("job", "create", "-f", path, "-n", "served"))
    shown = good(moorage("job", "show-services", "-n", "served"))
    assert (shown["notebook"]["status"], shown["notebook"]["error"]["error"]["code"]) == ("Failed", "NotYetImplemented")
    assert moorage("job", "show-services", "-n", "absent")[0] == 3


BLOB = "$schema: https://x/azureBlob.schema.json\nname: archive\ntype: azure_blob\naccount_name: acct\ncontainer_name: runs\ncredentials: {sas_token: 'sv=1&sig=secret'}\n"


def test_what_nothing_acts_on_is_told_when_it_is_sent_and_stands_in_the_run_history(
    agent: Agent, client: Client, moorage: Run, tmp_path: Path
) -> None:
    path = document(tmp_path, JOB + "identity: {type: managed}\nresources: {docker_args: --rm}\noutputs: {model: {mode: direct}}\n")
    err = moorage("job", "validate", "-f", path, "--set", "environment.name=mine")[2]
    validated = [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]
    code, out, err = moorage("job", "create", "-f", path, "-n", "asking", "--set", "environment.name=mine")
    assert code == 0, err
    told = [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]
    assert [message.partition(":")[0] for message in told] == [
        "environment.name",
        "identity",
        "resources.docker_args",
        "outputs.model.mode",
    ]
    assert validated == told
    assert json.loads(out)["identity"] == {"type": "managed"} and json.loads(out)["resources"]["docker_args"] == "--rm", "stored as sent"
    for view in ("", "/details"):
        run = client.get(f"/history/v1.0{client.workspace.id}/runs/asking{view}")
        assert [each["message"] for each in run["warnings"] if each["source"] == "fields"] == told[1:]
    assert "warning: " not in moorage("job", "create", "-f", path, "-n", "asking-again", "--only-show-errors")[2]
    assert "warning: " not in moorage("job", "create", "-f", document(tmp_path, JOB), "-n", "asking-nothing")[2]
    code, _, err = moorage("component", "create", "-f", document(tmp_path, DOCUMENTS["component"].replace("NAME", "plain")))
    assert code == 0 and "warning: " not in err


def test_a_datastore_is_registered_changed_and_forgotten_and_its_secret_shown_only_on_request(moorage: Run, tmp_path: Path) -> None:
    made = good(moorage("datastore", "create", "-f", document(tmp_path, BLOB)))
    assert (made["type"], made["account_name"], made["container_name"], made["credentials"]) == ("azure_blob", "acct", "runs", {})
    made = good(moorage("datastore", "update", "-n", "archive", "--set", "description=old runs", "--set", "tags.a=b"))
    assert (made["description"], made["tags"], made["endpoint"]) == ("old runs", {"a": "b"}, "core.windows.net")
    assert "secret" not in moorage("datastore", "show", "-n", "archive")[1]
    shown = good(moorage("datastore", "show", "-n", "archive", "--include-secrets"))
    assert shown["credentials"] == {"sas_token": "sv=1&sig=secret"}, "an update without a secret keeps the one there is"
    listed = good(moorage("datastore", "list"))
    assert {each["name"]: each["is_default"] for each in listed} == {
        "workspaceblobstore": True,
        "workspaceartifactstore": False,
        "archive": False,
    }
    assert "archive" in moorage("datastore", "list", "-o", "table")[1]
    assert moorage("datastore", "delete", "-n", "archive")[0] == 0
    assert moorage("datastore", "show", "-n", "archive")[0] == 3
    assert moorage("datastore", "delete", "-n", "workspaceblobstore")[0] == 5, "a built-in one stays"


def test_a_workspace_is_made_without_one_in_the_profile_changed_and_deleted(profile: Profile, moorage: Run, tmp_path: Path) -> None:
    save({"workspace": ""})
    assert "default" in [each["name"] for each in good(moorage("workspace", "list"))]
    made = good(moorage("workspace", "create", "-n", "research", "--display-name", "Research", "--tags", "team=vision"))
    assert (made["name"], made["display_name"], made["tags"]) == ("research", "Research", {"team": "vision"})
    path = document(tmp_path, "name: written\nresource_group: other\ndescription: from a file\n")
    made = good(moorage("workspace", "create", "-f", path))
    assert (made["resourceGroup"], made["description"]) == ("other", "from a file")
    made = good(moorage("workspace", "update", "-n", "research", "--description", "x", "--set", "tags.n=1"))
    assert (made["display_name"], made["description"], made["tags"]) == ("Research", "x", {"team": "vision", "n": "1"})

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w").write_text("w")
    model = ("model", "create", "-n", "digits", "-v", "1", "-p", str(tmp_path / "m"), "-w", "research")
    good(moorage(*model))
    assert moorage("workspace", "delete", "-n", "research", "--yes")[0] == 0
    assert moorage("workspace", "show", "-n", "research")[0] == 3
    code, _, err = moorage("model", "list", "-w", "research")
    assert code == 3 and "Workspace 'research' does not exist" in err, "no part of the service still takes it for there"
    assert moorage("workspace", "delete", "-n", "research", "--yes")[0] == 3

    good(moorage("workspace", "create", "-n", "research"))
    assert good(moorage("model", "list", "-w", "research")) == []
    assert (
        "m: 1 B" not in moorage(*model)[2]
        and moorage("model", "download", "-n", "digits", "-v", "1", "-w", "research", "-p", str(tmp_path))[0] == 0
    )
    assert moorage("workspace", "delete", "-n", "research", "--all-resources", "--yes")[0] == 0
    good(moorage("workspace", "create", "-n", "research"))
    assert "m: 1 B" in moorage(*model)[2], "its files went with it, so they are sent again"


def test_a_workspace_with_a_compute_is_not_deleted(agent: Agent, moorage: Run) -> None:
    for further in ((), ("--all-resources",)):
        code, _, err = moorage("workspace", "delete", "-n", "default", "--yes", *further)
        assert code == 4 and "has compute targets: local. Detach them first" in err
    assert good(moorage("datastore", "list"))


@pytest.mark.slow  # it waits for operations of the service
def test_a_compute_is_relabelled_its_nodes_listed_and_no_machine_made(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    made = good(moorage("compute", "update", "-n", "local", "--tags", "team=vision", "--set", "description=ours"))
    assert (made["tags"], made["description"], made["provisioning_state"]) == ({"team": "vision"}, "ours", "Succeeded")
    id = "/subscriptions/S/resourceGroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/MyId"
    identity = {"type": "user_assigned", "user_assigned_identities": [{"resource_id": id}]}
    good(moorage("compute", "update", "-n", "local", "--set", f"identity={json.dumps(identity)}"))
    assert good(moorage("compute", "update", "-n", "local", "--set", "tags.n=1"))["identity"] == identity, "what is not named stays"
    assert good(moorage("compute", "update", "-n", "local", "--identity-type", "system_assigned"))["identity"]["type"] == "system_assigned"
    (node,) = good(moorage("compute", "list-nodes", "-n", "local"))
    assert (node["node_id"], node["node_state"], node["allocatable"]["cpu"]) == ("n1", "idle", "4")
    assert [each["name"] for each in good(moorage("compute", "list", "--type", "kubernetes"))] == ["local"]
    assert good(moorage("compute", "list", "--type", "amlcompute")) == []
    resource = made["resource_id"]
    path = document(tmp_path, f"name: second\ntype: kubernetes\nresource_id: {resource}\nnamespace: default\n")
    assert good(moorage("compute", "create", "-f", path))["name"] == "second"
    assert moorage("compute", "detach", "-n", "second", "--yes", "--no-wait")[0] == 0
    path = document(tmp_path, "$schema: https://x/amlCompute.schema.json\nname: c\ntype: amlcompute\nsize: S\n")
    for words in (("-n", "c", "--type", "AmlCompute", "--size", "Standard_DS3_v2", "--max-instances", "2"), ("-f", path)):
        code, _, err = moorage("compute", "create", *words)
        assert code == 2 and "not created here" in err and "ttach" in err


BATCH = "name: nightly\ndescription: d\n"
FIRST = (
    "name: first\nendpoint_name: nightly\nmodel: azureml:batched:1\ncompute: azureml:local\nmini_batch_size: 5\noutput_action: append_row\n"
    "retry_settings: {max_retries: 2, timeout: 60}\nresources: {instance_count: 2}\n"
)


def test_batch_endpoints_and_deployments_are_kept_and_not_invoked(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    good(moorage("model", "create", "-f", document(tmp_path, DOCUMENTS["model"].replace("NAME", "batched"))))
    good(moorage("batch-endpoint", "create", "-f", document(tmp_path, BATCH)))
    assert moorage("batch-endpoint", "create", "-n", "nightly")[0] == 4
    first = good(moorage("batch-deployment", "create", "-f", document(tmp_path, FIRST), "--set-default"))
    assert (first["endpoint_name"], first["model"], first["compute"]) == ("nightly", "azureml:batched:1", "azureml:local")
    assert (first["retry_settings"], first["resources"]["instance_count"]) == ({"max_retries": 2, "timeout": 60}, 2)
    made = good(moorage("batch-deployment", "update", "-e", "nightly", "-n", "first", "--set", "mini_batch_size=7"))
    assert {**first, "mini_batch_size": 7, "creation_context": 0} == {**made, "creation_context": 0}
    assert good(moorage("batch-endpoint", "update", "-n", "nightly", "--set", "tags.a=b"))["defaults"] == {"deployment_name": "first"}
    code, _, err = moorage("batch-endpoint", "update", "-n", "nightly", "--defaults", "deployment_name=absent")
    assert code == 4 and ": defaults.deployment_name: the endpoint has no deployment 'absent' (it has: first)." in err, err
    code, _, err = moorage("batch-deployment", "update", "-e", "nightly", "-n", "first", "--set", "compute=azureml:absent")
    assert code == 2 and ": compute: " in err and "properties." not in err, err
    assert [each["name"] for each in good(moorage("batch-endpoint", "list"))] == ["nightly"]
    assert [each["name"] for each in good(moorage("batch-deployment", "list", "-e", "nightly"))] == ["first"]
    assert good(moorage("batch-endpoint", "list-jobs", "-n", "nightly")) == []
    assert good(moorage("batch-deployment", "list-jobs", "-n", "first", "-e", "nightly")) == []
    good(moorage("data", "create", "-f", document(tmp_path, DOCUMENTS["data"].replace("NAME", "pictures"))))
    inputs = document(tmp_path, "inputs: {pictures: {type: uri_folder, path: azureml:pictures:1}, n: 3}\noutputs: {o: {type: uri_file}}\n")
    invoke = ("batch-endpoint", "invoke", "-n", "nightly")
    for given in (
        ("--input", "azureml:pictures@latest", "--mini-batch-size", "3", "-d", "first"),
        ("-f", inputs),
        ("--input", str(tmp_path)),
        (),
    ):
        code, _, err = moorage(*invoke, *given)
        assert code == 2 and "does not run batch endpoints (invoke) yet. Score the data in a command job" in err, (given, err)
    for given, says in (
        (
            ("--input", "azureml:x:1"),
            "--input: input: there is no data asset 'x' of version 1. See what there is: moorage data list --name x.",
        ),
        (("--input", "azureml:x:1:2"), "--input: input: 'azureml:x:1:2' is no asset reference"),
        (("--input", str(tmp_path / "absent")), "absent' does not exist or cannot be read"),
        (("--input", inputs, "--input-type", "uri_folder"), "is a file; write `type: uri_file`."),
        (("--input", inputs, "--input-type", "table"), "--input-type: input_type: 'table' is not one of uri_folder, uri_file."),
        (("--input-type", "uri_file"), "input_type: says what --input is, which is missing."),
        (("-f", inputs, "--input", "azureml:pictures:1"), "input: give either --input or `inputs` in the file, not both."),
        (("-f", inputs, "--set", "input.pictures=1"), "input: expected text, found a mapping."),
        (("-f", inputs, "--set", "inptus=1"), "inptus: unknown field. Did you mean 'inputs'?"),
        (("--output-path", "./here"), "output_path: './here' is no place in a datastore"),
        (("--mini-batch-size", "many"), "--mini-batch-size: mini_batch_size: expected a whole number, found the text 'many'."),
        (("--anything", "else"), "No such option"),
    ):
        code, _, err = moorage(*invoke, *given)
        assert code == 2 and says in err, (given, err)
    assert moorage(*invoke, "-d", "absent")[0] == 3
    assert moorage("batch-endpoint", "invoke", "-n", "absent")[0] == 3
    assert moorage("batch-deployment", "delete", "-n", "first", "-e", "nightly", "--yes")[0] == 4, "it is the default"
    assert moorage("batch-endpoint", "delete", "-n", "nightly", "--yes")[0] == 0
    assert moorage("batch-endpoint", "show", "-n", "nightly")[0] == 3


NIGHTLY = "name: nightly\ntrigger: {type: cron, expression: '0 3 * * *'}\ncreate_job: ./pipeline.yml\n"


def test_a_compute_target_of_no_cluster_is_refused_by_the_field_and_line_of_its_document(
    agent: Agent, moorage: Run, tmp_path: Path
) -> None:
    absent = f"/subscriptions/{'0' * 8}/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/absent"
    code, _, err = moorage("compute", "attach", "-f", document(tmp_path, f"name: lost\ntype: kubernetes\nresource_id: {absent}\n"))
    assert code == 2 and "document.yml:3: resource_id: " in err and "properties." not in err, err


def test_a_schedule_is_kept_and_not_enabled(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    step = "{command: echo, environment: azureml:AzureML-sklearn-1.5@latest}"
    document(tmp_path, f"type: pipeline\nsettings: {{default_compute: azureml:local}}\njobs: {{one: {step}}}\n", "pipeline.yml")
    code, out, err = moorage("schedule", "create", "-f", document(tmp_path, NIGHTLY))
    assert code == 0 and "schedule nightly is stored, and disabled" in err
    made = json.loads(out)
    assert (made["trigger"]["expression"], made["is_enabled"], list(made["create_job"]["jobs"])) == ("0 3 * * *", False, ["one"])
    changed = good(moorage("schedule", "update", "-n", "nightly", "--set", "trigger.expression=0 4 * * *", "--set", "description=d"))
    assert changed["trigger"]["expression"] == "0 4 * * *" and changed["create_job"] == made["create_job"]
    for words in (("enable", "-n", "nightly"), ("trigger", "-n", "nightly")):
        code, _, err = moorage("schedule", *words)
        assert "properties." not in err
        assert code == 2 and "does not run schedules (enable, trigger) yet. Submit the job from a scheduler of your own" in err
    assert good(moorage("schedule", "disable", "-n", "nightly"))["is_enabled"] is False
    assert good(moorage("schedule", "list")) == []
    for view in ("--include-disabled", "--disabled-only"):
        assert [each["name"] for each in good(moorage("schedule", "list", view))] == ["nightly"]
    assert moorage("schedule", "delete", "-n", "nightly", "--yes")[0] == 0
    assert moorage("schedule", "show", "-n", "nightly")[0] == 3


def test_an_endpoint_is_made_with_what_scripts_give(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    path = document(tmp_path, "name: scripted\ncompute: azureml:local\nauth_mode: key\n")
    code, out, err = moorage("online-endpoint", "create", "-f", path, "--web", "--no-wait")
    assert code == 0 and "no web page to open yet; follow it with `moorage online-endpoint show -n scripted`" in err
    assert json.loads(out)["name"] == "scripted", "the hint is on stderr alone"
    before = good(moorage("online-endpoint", "get-credentials", "-n", "scripted"))
    after = good(moorage("online-endpoint", "regenerate-keys", "-n", "scripted", "--key-type", "primary", "--no-wait"))
    assert before["primaryKey"] != after["primaryKey"] and before["secondaryKey"] == after["secondaryKey"]
    assert good(moorage("online-deployment", "list", "--endpoint", "scripted")) == []
    change = ("online-endpoint", "update", "-n", "scripted", "--no-wait")
    assert good(moorage(*change, "--set", "tags.a=1", "--set", "tags.b=true", "--force-string"))["tags"] == {"a": "1", "b": "true"}
    assert good(moorage(*change, "--remove", "tags.a", "--set", "description=d"))["tags"] == {"b": "true"}
    code, _, err = moorage(*change, "--remove", "tags.a")
    assert code == 2 and "--remove tags.a: tags has no field 'a'; it has b." in err
    code, _, err = moorage(*change, "--add", "traffic", "blue=90")
    assert code == 2 and "--add traffic: traffic is a mapping, and no list that could grow" in err
    assert moorage(*change, "--add")[0] == 2
    assert moorage("online-endpoint", "delete", "-n", "scripted", "--yes", "--no-wait")[0] == 0
