"""The plan of a container's root, and the rewriting where there can be none."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from moorage.embedded.node.environment import Surroundings, expand, field_value, resolve, resource_value
from moorage.embedded.node.mounts import Entry, Mount, plan, rewriting
from moorage.errors import NotFound

DIR, FILE = Entry("dir"), Entry("file")


class Host:
    """A host's file system as a table."""

    def __init__(self, **entries: Entry) -> None:
        self.entries = {"/" + name.replace("__", "/").replace("_0", "."): entry for name, entry in entries.items()}

    def entry(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def children(self, path: str) -> Mapping[str, Entry]:
        base = path.rstrip("/") + "/"
        return {p[len(base) :]: entry for p, entry in self.entries.items() if p.startswith(base) and "/" not in p[len(base) :]}


HOST = Host(
    usr=DIR, bin=Entry("link", "usr/bin"), mnt=DIR, mnt__disk=DIR, var=DIR, var__lib=DIR, var__run=Entry("link", "/run"), run=DIR, tmp=DIR
)


def test_without_mounts_the_root_is_the_hosts_entries() -> None:
    steps = plan([], HOST)
    assert ["link", "/bin", "usr/bin"] in steps
    assert ["bind", "/usr", "/usr", False, True] in steps


def test_a_mount_over_an_existing_folder_rebuilds_nothing() -> None:
    steps = plan([Mount("/tmp", "/host/tmp")], HOST)
    assert ["bind", "/mnt", "/mnt", False, True] in steps
    assert steps[-1] == ["bind", "/tmp", "/host/tmp", False, False]


def test_a_missing_folder_is_made_in_a_rebuilt_parent_not_on_the_host() -> None:
    steps = plan([Mount("/mnt/azureml/code", "/host/code", readonly=True)], HOST)
    assert ["bind", "/mnt", "/mnt", False, True] not in steps
    made = [step for step in steps if step[1].startswith("/mnt")]
    assert made == [
        ["dir", "/mnt"],
        ["dir", "/mnt/disk"],
        ["bind", "/mnt/disk", "/mnt/disk", False, True],
        ["dir", "/mnt/azureml"],
        ["dir", "/mnt/azureml/code"],
        ["bind", "/mnt/azureml/code", "/host/code", True, False],
    ]


def test_links_of_the_host_are_followed() -> None:
    steps = plan([Mount("/var/run/secrets/x", "/host/x")], HOST)
    assert ["dir", "/run/secrets/x"] in steps
    assert ["link", "/var/run", "/run"] not in steps  # /var itself is bound whole
    assert steps[-1] == ["bind", "/run/secrets/x", "/host/x", False, False]


def test_a_mount_inside_another_is_made_after_it() -> None:
    steps = plan([Mount("/data/cache", "/host/cache"), Mount("/data", "/host/data")], HOST)
    assert steps[-3:] == [
        ["bind", "/data", "/host/data", False, False],
        ["dir", "/data/cache"],
        ["bind", "/data/cache", "/host/cache", False, False],
    ]


def test_a_file_gets_a_file_to_be_mounted_on() -> None:
    steps = plan([Mount("/run/config.json", "/host/c", file=True)], HOST)
    assert steps[-2:] != []
    assert ["file", "/run/config.json"] in steps


def test_paths_are_rewritten_where_they_stand_whole() -> None:
    rewrite = rewriting([Mount("/data", "/h/1"), Mount("/data/out", "/h/2"), Mount("/same", "/same")])
    assert (
        rewrite.text("cat /data/x /data/out/y /database /my/data '/data' --to=/data")
        == "cat /h/1/x /h/2/y /database /my/data '/h/1' --to=/h/1"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("$(A)/x", "1/x"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$A", "$A"), ("$(A", "$(A"), ("cost $", "cost $")],
)
def test_variables_expand_as_in_kubernetes(text: str, wanted: str) -> None:
    assert expand(text, {"A": "1"}) == wanted


POD = {
    "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": 'x"y'}},
    "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}}}]},
    "status": {"podIP": "127.16.0.1"},
}
OBJECTS = {
    ("ConfigMap", "cm"): {"kind": "ConfigMap", "data": {"k": "v", "other": "w"}},
    ("Secret", "s"): {"kind": "Secret", "data": {"p": "cHc="}},
}
AROUND = Surroundings(POD, lambda kind, name: OBJECTS.get((kind, name)), {"memory": "4Gi", "cpu": "8"})


def test_the_environment_is_resolved_in_order() -> None:
    container = {
        "name": "c",
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": True}}],
        "env": [
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "URL", "value": "x://$(PW)@$(CM_k)/$(LATER)"},
            {"name": "LATER", "value": "1"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "absent", "optional": True}}},
        ],
    }
    assert resolve(container, AROUND, {"PATH": "/bin"}) == {
        "PATH": "/bin",
        "CM_k": "v",
        "CM_other": "w",
        "PW": "pw",
        "URL": "x://pw@v/$(LATER)",
        "LATER": "1",
        "IP": "127.16.0.1",
    }


def test_a_missing_key_is_said_in_the_kubelets_words() -> None:
    with pytest.raises(NotFound, match="couldn't find key x in Secret ns/s"):
        resolve({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}}]}, AROUND, {})


def test_fields_and_resources_of_the_downward_api() -> None:
    assert field_value(POD, "metadata.labels") == 'a="x\\"y"\nb="2"'
    assert field_value(POD, "metadata.labels['b']") == "2"
    assert resource_value(POD, {"resource": "limits.cpu"}, AROUND.allocatable, default="c") == "2"
    assert resource_value(POD, {"resource": "limits.memory", "divisor": "1Mi"}, AROUND.allocatable, default="c") == "4096"
    assert resource_value(POD, {"resource": "requests.memory", "divisor": "1Mi"}, AROUND.allocatable, default="c") == "1024"
