"""Workspaces, datastores, computes and the five asset types (contract 4)."""

from __future__ import annotations

from pathlib import Path

import yaml
from azure.ai.ml import load_component, load_compute
from azure.ai.ml.constants import AssetTypes, ListViewType
from azure.ai.ml.entities import (
    AccountKeyConfiguration,
    AzureBlobDatastore,
    BuildContext,
    Data,
    Environment,
    IdentityConfiguration,
    KubernetesCompute,
    Model,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from flows.expect import names, raises

CONDA = {"name": "c", "dependencies": ["python=3.11", "pip", {"pip": ["six"]}]}


def a_workspace_is_shown_and_listed(place) -> None:
    workspace = place.ml.workspaces.get(place.scope["workspace"])
    assert workspace.location == "local" and workspace.discovery_url.startswith(place.url)
    assert workspace.name in names(place.ml.workspaces.list())
    assert workspace.name in names(place.ml.workspaces.list(scope="subscription"))


def a_workspace_is_changed(place) -> None:
    before = place.ml.workspaces.get(place.scope["workspace"])
    changed = place.ml.workspaces.begin_update(before, tags={"a": "b"}, description="of a test").result()
    assert (changed.tags, changed.description, changed.display_name) == ({"a": "b"}, "of a test", before.display_name)
    assert place.ml.workspaces.get(before.name).tags == {"a": "b"}


def an_unknown_workspace_is_not_found(place) -> None:
    raises(ResourceNotFoundError, "nowhere", place.ml.workspaces.get, "nowhere")


def datastores_are_shown_listed_made_and_deleted(place) -> None:
    default = place.ml.datastores.get_default()
    assert default.name == "workspaceblobstore" and default.container_name
    assert {"workspaceblobstore", "workspaceartifactstore"} <= names(place.ml.datastores.list())
    assert place.ml.datastores.get("workspaceartifactstore", include_secrets=True).credentials.sas_token
    made = place.ml.datastores.create_or_update(
        AzureBlobDatastore(
            name="elsewhere",
            account_name="acct",
            container_name="box",
            description="d",
            tags={"a": "b"},
            credentials=AccountKeyConfiguration(account_key="bW9vcmFnZQ=="),
        )
    )
    assert (made.name, made.account_name, made.container_name) == ("elsewhere", "acct", "box")
    assert place.ml.datastores.get("elsewhere", include_secrets=True).credentials.account_key == "bW9vcmFnZQ=="
    assert getattr(place.ml.datastores.get("elsewhere").credentials, "account_key", None) in (None, "")
    place.ml.datastores.delete("elsewhere")
    raises(ResourceNotFoundError, "elsewhere", place.ml.datastores.get, "elsewhere")


def a_compute_is_attached_shown_listed_and_detached(place) -> None:
    local = place.ml.compute.get("local")
    assert local.type == "kubernetes" and local.provisioning_state == "Succeeded"
    assert "defaultinstancetype" in local.properties["instanceTypes"]
    attached = place.ml.compute.begin_attach(
        KubernetesCompute(
            name="second",
            resource_id=local.resource_id,
            namespace="sdk-second",
            description="of a test",
            tags={"a": "b"},
            identity=IdentityConfiguration(type="SystemAssigned"),
        )
    ).result()
    assert (attached.namespace, attached.description, attached.provisioning_state) == ("sdk-second", "of a test", "Succeeded")
    shown = place.ml.compute.get("second")
    assert shown.identity.type.lower().replace("_", "") == "systemassigned" and shown.tags == {"a": "b"}
    assert shown.properties["instanceTypes"] == place.ml.compute.get("local").properties["instanceTypes"]
    assert {"local", "second"} <= names(place.ml.compute.list()) and "second" in names(place.ml.compute.list(compute_type="kubernetes"))
    assert len(list(place.ml.compute.list_nodes("second"))) == 2
    assert list(place.ml.compute.list_sizes()) == [] and list(place.ml.compute.list_usage()) == []
    shown.tags = {"c": "d"}
    assert place.ml.compute.begin_update(shown).result().tags == {"c": "d"}
    place.ml.compute.begin_delete("second", action="Detach").result()
    raises(ResourceNotFoundError, "second", place.ml.compute.get, "second")


def a_compute_of_a_yaml_file_with_a_users_identity_is_attached(place) -> None:
    identity = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
    source = place.file(
        "compute.yml",
        f"name: third\ntype: kubernetes\nresource_id: {place.ml.compute.get('local').resource_id}\nnamespace: sdk-third\n"
        f"identity:\n  type: user_assigned\n  user_assigned_identities:\n    - resource_id: {identity}\n",
    )
    attached = place.ml.compute.begin_create_or_update(load_compute(source)).result()
    assert attached.namespace == "sdk-third"
    assert [each.resource_id for each in place.ml.compute.get("third").identity.user_assigned_identities] == [identity]
    place.ml.compute.begin_delete("third", action="Detach").result()


def a_compute_of_an_unknown_cluster_is_refused(place) -> None:
    other = place.ml.compute.get("local").resource_id.replace("/local", "/nowhere")
    wrong = KubernetesCompute(name="wrong", resource_id=other, namespace="default")
    raises(HttpResponseError, "nowhere", lambda: place.ml.compute.begin_attach(wrong).result())


def an_environment_with_an_image_numbers_its_versions(place) -> None:
    one = place.ml.environments.create_or_update(Environment(name="img", image="python:3.11", description="d", tags={"a": "b"}))
    same = place.ml.environments.create_or_update(Environment(name="img", image="python:3.11", description="d", tags={"a": "b"}))
    two = place.ml.environments.create_or_update(Environment(name="img", image="python:3.12"))
    assert (one.version, same.version, two.version) == ("1", "1", "2")
    assert place.ml.environments.get("img", version="1").image == "python:3.11"
    assert place.ml.environments.get("img", label="latest").version == "2"
    assert {each.version for each in place.ml.environments.list(name="img")} == {"1", "2"}
    assert "img" in names(place.ml.environments.list())
    raises(
        HttpResponseError, "other content", place.ml.environments.create_or_update, Environment(name="img", version="1", image="other:1")
    )


def an_environment_with_a_conda_file_comes_back_as_it_was(place) -> None:
    made = place.ml.environments.create_or_update(
        Environment(name="con", version="5", image="python:3.11", conda_file=place.file("conda.yml", yaml.safe_dump(CONDA)))
    )
    assert made.conda_file == CONDA and place.ml.environments.get("con", "5").conda_file == CONDA


def an_environment_with_a_build_context_is_stored_and_refused_when_a_job_names_it(place) -> None:
    from flows.jobs import echo

    place.file("context/Dockerfile", "FROM python:3.11\n")
    place.file("context/requirements.txt", "six\n")
    context = BuildContext(path=str(place.folder / "context"))
    made = place.ml.environments.create_or_update(Environment(name="built", version="1", build=context))
    assert made.build.dockerfile_path == "Dockerfile" and "/LocalUpload/" in made.build.path
    assert place.ml.environments.get("built", "1").build.path == made.build.path
    raises(HttpResponseError, "--image-builder", place.ml.jobs.create_or_update, echo(environment="built:1"))


def environments_are_archived_and_restored(place) -> None:
    place.ml.environments.create_or_update(Environment(name="arc", version="1", image="python:3.11"))
    place.ml.environments.archive("arc", version="1")
    assert list(place.ml.environments.list(name="arc")) == []
    assert [each.version for each in place.ml.environments.list(name="arc", list_view_type=ListViewType.ARCHIVED_ONLY)] == ["1"]
    place.ml.environments.restore("arc", version="1")
    assert [each.version for each in place.ml.environments.list(name="arc")] == ["1"]
    place.ml.environments.archive("arc")
    assert "arc" not in names(place.ml.environments.list())
    place.ml.environments.restore("arc")
    assert "arc" in names(place.ml.environments.list())


def data_assets_of_every_type_are_made_from_files_and_addresses(place) -> None:
    place.file("folder/a b#é.csv", "1,2\n")
    place.file("folder/sub/empty", "")
    one = place.file("one.csv", "1\n")
    file = place.ml.data.create_or_update(Data(name="dfile", path=one, type=AssetTypes.URI_FILE, description="d", tags={"a": "b"}))
    again = place.ml.data.create_or_update(Data(name="dfile", path=one, type=AssetTypes.URI_FILE))
    folder = place.ml.data.create_or_update(
        Data(name="dfolder", version="7", path=str(place.folder / "folder"), type=AssetTypes.URI_FOLDER)
    )
    assert (file.version, again.version, folder.version) == ("1", "2", "7")
    assert file.path.endswith("one.csv") and "/datastores/workspaceblobstore/paths/LocalUpload/" in folder.path
    assert place.ml.data.get("dfile", label="latest").version == "2" and place.ml.data.get("dfile", "1").tags == {"a": "b"}
    web = place.ml.data.create_or_update(Data(name="dweb", path="https://example.org/x.csv", type=AssetTypes.URI_FILE))
    assert web.path == "https://example.org/x.csv"
    short = place.ml.data.create_or_update(
        Data(name="dshort", path="azureml://datastores/workspaceblobstore/paths/a/b/", type=AssetTypes.URI_FOLDER)
    )
    assert short.path.endswith("/workspaceblobstore/paths/a/b/")
    assert {"dfile", "dfolder", "dweb", "dshort"} <= names(place.ml.data.list())
    assert {each.version for each in place.ml.data.list(name="dfile")} == {"1", "2"}
    place.ml.data.archive("dfile", version="2")
    assert {each.version for each in place.ml.data.list(name="dfile")} == {"1"}
    place.ml.data.restore("dfile", version="2")


def an_mltable_is_made_from_its_folder(place) -> None:
    place.file("table/rows.csv", "a\n1\n")
    place.file("table/MLTable", "paths:\n  - file: ./rows.csv\ntransformations:\n  - read_delimited:\n      delimiter: ','\n")
    made = place.ml.data.create_or_update(
        Data(name="dtable", path=str(place.folder / "table"), type=AssetTypes.MLTABLE, skip_validation=True)
    )
    assert made.type == "mltable" and place.ml.data.get("dtable", made.version).path == made.path


def a_model_of_local_files_is_registered_and_downloaded(place) -> None:
    place.file("model/weights.bin", "w" * 1000)
    place.file("model/sub/note.txt", "note\n")
    path = str(place.folder / "model")
    one = place.ml.models.create_or_update(Model(name="mod", path=path, type=AssetTypes.CUSTOM_MODEL, description="d", tags={"a": "b"}))
    two = place.ml.models.create_or_update(Model(name="mod", path=path, properties={"p": "q"}))
    assert (one.version, two.version) == ("1", "2") and place.ml.models.get("mod", label="latest").version == "2"
    single = place.ml.models.create_or_update(Model(name="single", version="3", path=place.file("m.pkl", "x")))
    assert single.path.endswith("m.pkl")
    place.ml.models.download("mod", "1", download_path=str(place.folder / "got"))
    got = {each.name: each.read_text() for each in (place.folder / "got").rglob("*") if each.is_file()}
    assert got == {"weights.bin": "w" * 1000, "note.txt": "note\n"}
    place.ml.models.archive("mod", version="1")
    assert {each.version for each in place.ml.models.list(name="mod")} == {"2"}
    place.ml.models.restore("mod", version="1")
    assert {"mod", "single"} <= names(place.ml.models.list())


def a_file_beyond_one_request_is_uploaded_in_blocks_and_comes_back(place) -> None:
    big = Path(place.folder / "big.bin")
    with big.open("wb") as file:
        for number in range(70):
            file.write(bytes([number]) * 1024 * 1024)
    place.ml.models.create_or_update(Model(name="big", version="1", path=str(big)))
    place.ml.models.download("big", "1", download_path=str(place.folder / "back"))
    (back,) = (place.folder / "back").rglob("big.bin")
    assert back.read_bytes() == big.read_bytes()


def a_command_component_is_registered_loaded_and_archived(place) -> None:
    place.file("src/train.py", "print('hello')\n")
    source = place.file(
        "component.yml",
        "$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json\ntype: command\nname: comp\nversion: 1\n"
        "display_name: Comp\ninputs:\n  n: {type: integer, default: 3, min: 1}\n  f: {type: uri_folder, optional: true}\n"
        "outputs:\n  out: {type: uri_folder}\ncode: ./src\nenvironment: {image: 'python:3.11'}\n"
        "command: python train.py --n ${{inputs.n}} $[[--f ${{inputs.f}}]] --out ${{outputs.out}}\n",
    )
    made = place.ml.components.create_or_update(load_component(source))
    shown = place.ml.components.get("comp", "1")
    assert (made.name, made.version, shown.display_name) == ("comp", "1", "Comp")
    assert shown.inputs["n"].default in (3, "3") and shown.command == made.command
    again = place.ml.components.create_or_update(load_component(source))
    assert again.version == "1"
    assert "comp" in names(place.ml.components.list()) and [each.version for each in place.ml.components.list(name="comp")] == ["1"]
    place.ml.components.archive("comp", version="1")
    assert list(place.ml.components.list(name="comp")) == []
    place.ml.components.restore("comp", version="1")
