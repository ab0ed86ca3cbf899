"""Documents of every kind that names others, from the command line against the real service."""

from __future__ import annotations

import json
from pathlib import Path

from tests.embedded.client_peers import Agent, Run, agent, client, moorage, profile, service, token

from moorage.client.assets import Assets
from moorage.client.connection import Client
from moorage.wire.documents.document import Kind, load

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]

COMPONENT = """\
name: train
inputs: {n: {type: integer, default: 3}}
outputs: {model: {type: uri_folder}}
code: ./src
environment: azureml:AzureML-sklearn-1.5@latest
command: python train.py --n ${{inputs.n}} --out ${{outputs.model}}
"""
PIPELINE = """\
type: pipeline
settings: {default_compute: azureml:local}
jobs:
  file: {component: ./steps/train.yml, inputs: {n: 4}}
  named: {component: azureml:train@latest}
  inline:
    command: echo ${{inputs.data}}
    environment: {image: "python:3.11"}
    inputs: {data: "${{parent.jobs.file.outputs.model}}"}
"""


def write(folder: Path) -> Path:
    (folder / "steps" / "src").mkdir(parents=True)
    (folder / "steps" / "src" / "train.py").write_text("print()\n")
    (folder / "steps" / "train.yml").write_text(COMPONENT)
    (folder / "pipeline.yml").write_text(PIPELINE)
    return folder / "pipeline.yml"


def test_a_pipeline_s_components_are_registered_once_from_their_own_folders(client: Client, moorage: Run, tmp_path: Path) -> None:
    path = write(tmp_path)
    code, out, err = moorage("component", "create", "-f", str(tmp_path / "steps" / "train.yml"))
    assert code == 0, err
    made = json.loads(out)
    assert (made["name"], made["version"]) == ("train", "1")
    assert made["component_spec"]["environment"] == "azureml:AzureML-sklearn-1.5@latest", "the reference is kept as it was written"
    assert json.loads(moorage("component", "create", "-f", str(tmp_path / "steps" / "train.yml"))[1])["version"] == "1"
    first = Assets(client, load(Kind.JOB, path.read_text(), name=str(path), folder=tmp_path)).body()
    again = Assets(client, load(Kind.JOB, path.read_text(), name=str(path), folder=tmp_path)).body()
    assert first == again, "the same content is the same component"
    jobs = first["properties"]["jobs"]
    assert jobs["named"]["componentId"] == client.workspace.child("components", "train", "versions", "1")
    step = client.get(jobs["file"]["componentId"])
    assert step["properties"]["isAnonymous"] is True
    assert step["properties"]["componentSpec"]["code"].startswith(f"azureml:{client.workspace.id}/codes/")
    inline = client.get(jobs["inline"]["componentId"])["properties"]["componentSpec"]
    assert inline["inputs"] == {"data": {"type": "uri_folder"}}
    assert jobs["inline"]["inputs"]["data"] == {"job_input_type": "literal", "value": "${{parent.jobs.file.outputs.model}}"}


def test_a_wrong_reference_in_a_step_is_refused_with_its_line(moorage: Run, tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(PIPELINE.replace("./steps/train.yml", "./steps/missing.yml"))
    code, _, err = moorage("job", "create", "-f", str(path))
    assert code == 2
    assert f"{path}:4: jobs.file.component: the document './steps/missing.yml' cannot be read" in err
    path.write_text(PIPELINE.replace("train@latest", "other@latest"))
    assert "jobs.named.component: there is no component named 'other'" in moorage("job", "create", "-f", str(path))[2]


def test_an_environment_in_a_file_of_its_own_is_registered_without_a_name(client: Client, moorage: Run, tmp_path: Path) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "conda.yml").write_text("dependencies: [python=3.11]\n")
    (tmp_path / "environments" / "env.yml").write_text('name: given\nversion: 3\nimage: "python:3.11"\nconda_file: ./conda.yml\n')
    path = tmp_path / "job.yml"
    path.write_text("command: python -V\nenvironment: file:./environments/env.yml\ncompute: azureml:local\n")
    made = Assets(client, load(Kind.JOB, path.read_text(), name=str(path), folder=tmp_path)).body()
    environment = client.get(made["properties"]["environmentId"])
    assert environment["properties"]["isAnonymous"] is True
    assert environment["properties"]["condaFile"] == "dependencies:\n- python=3.11\n"
    path.write_text(path.read_text().replace("env.yml", "other.yml"))
    code, _, err = moorage("job", "create", "-f", str(path))
    assert code == 2
    assert f"{path}:2: environment: the document './environments/other.yml' cannot be read" in err
    (tmp_path / "environments" / "env.yml").write_text("image: a\nconda_file: ./gone.yml\n")
    path.write_text(path.read_text().replace("other.yml", "env.yml"))
    code, _, err = moorage("job", "validate", "-f", str(path))
    assert code == 2, err
    assert f"{tmp_path / 'environments' / 'env.yml'}:2: conda_file: the conda file './gone.yml' cannot be read" in err


def test_ready_made_environments_are_listed_shown_and_added(moorage: Run, tmp_path: Path) -> None:
    code, out, err = moorage("environment", "list", "--registry-name", "azureml")
    assert code == 0, err
    assert "sklearn-1.5" in {each["name"] for each in json.loads(out)}
    shown = json.loads(moorage("environment", "show", "-n", "sklearn-1.5", "-l", "latest", "--registry-name", "azureml")[1])
    assert (shown["name"], shown["version"], shown["image"]) == ("sklearn-1.5", "1", "python:3.10-slim")
    (tmp_path / "ours.yml").write_text("name: ours-1\nimage: ours:1\n")
    code, out, err = moorage("environment", "create", "-f", str(tmp_path / "ours.yml"), "--registry-name", "azureml")
    assert code == 0, err
    assert json.loads(out)["id"] == "azureml://registries/azureml/environments/ours-1/versions/1"
    code, _, err = moorage("environment", "show", "-n", "sklearn-77", "-v", "1", "--registry-name", "azureml")
    assert code == 3, err
    assert "nearest first: sklearn-" in err


def test_files_of_a_document_go_where_it_says(agent: Agent, client: Client, moorage: Run, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("print()\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "words.py").write_text("w\n")
    (tmp_path / "data.txt").write_text("d\n")
    component = tmp_path / "component.yml"
    component.write_text(COMPONENT.replace("name: train", "name: sharing") + "additional_includes: [./shared, ./shared.zip]\n")
    code, out, err = moorage("component", "create", "-f", str(component))
    assert code == 0, err
    spec = json.loads(out)["component_spec"]
    assert spec["additional_includes"] == ["./shared", "./shared.zip"], "as the SDK sends it"
    made = client.get(spec["code"].removeprefix("azureml:"))["properties"]["codeUri"]
    assert made.endswith("/code_with_additional_includes")
    assert json.loads(moorage("component", "create", "-f", str(component))[1])["component_spec"]["code"] == spec["code"], "sent once"
    component.write_text(component.read_text().replace("./shared.zip", "./shard.zip"))
    code, _, err = moorage("component", "create", "-f", str(component), "--name", "wrong")
    assert code == 2 and f"{component}:" in err and "additional_includes: './shard.zip' does not exist" in err

    job = tmp_path / "job.yml"
    text = "command: echo\nenvironment: {image: 'python:3.11'}\ncompute: azureml:local\ninputs: {d: {type: uri_file, path: ./data.txt, datastore: DATASTORE}}\n"
    job.write_text(text.replace("DATASTORE", "azureml:workspaceartifactstore"))
    code, out, err = moorage("job", "create", "-f", str(job), "-n", "placed")
    assert code == 0, err
    assert "/datastores/workspaceartifactstore/paths/LocalUpload/" in json.loads(out)["inputs"]["d"]["path"]
    job.write_text(text.replace("DATASTORE", "absent"))
    assert moorage("job", "create", "-f", str(job), "-n", "placed-nowhere")[0] == 3
