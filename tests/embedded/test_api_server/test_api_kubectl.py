"""The stock kubectl against the served API."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from moorage.kube.kinds import DEPLOYMENT, INSTANCE_TYPE, NAMESPACE, POD, SECRET
from moorage.specs.manifest import Manifest
from moorage.wire import crds

from .conftest import Begin, Kubectl, Served

pytestmark = pytest.mark.kubectl

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
"""


async def test_apply_creates_leaves_alone_and_configures(kubectl: Kubectl, served: Served) -> None:
    assert (await kubectl("apply", "-f", "-", stdin=WEB)).out == "deployment.apps/web created\n"
    assert (await kubectl("apply", "-f", "-", stdin=WEB)).out == "deployment.apps/web unchanged\n"
    changed = WEB.replace("nginx", "httpd")
    assert (await kubectl("apply", "-f", "-", stdin=changed)).out == "deployment.apps/web configured\n"
    found = await served.cluster.get(DEPLOYMENT, "web", "default")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "httpd"
    assert found["spec"]["replicas"] == 1


async def test_server_side_apply_names_the_manager_it_collides_with(kubectl: Kubectl) -> None:
    await kubectl("apply", "--server-side", "-f", "-", "--field-manager=one", stdin=WEB)
    refused = await kubectl("apply", "--server-side", "-f", "-", "--field-manager=two", stdin=WEB.replace("nginx", "httpd"), code=1)
    assert 'conflict with "one": .spec.template.spec.containers[name="web"].image' in refused.err
    taken = await kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", "--field-manager=two", stdin=WEB.replace("nginx", "httpd")
    )
    assert taken.out == "deployment.apps/web serverside-applied\n"


async def test_the_create_subcommands_work(kubectl: Kubectl, served: Served) -> None:
    # kubectl sends these as protocol buffers, unlike everything it reads from files.
    await kubectl("create", "namespace", "team")
    await kubectl("create", "secret", "generic", "s", "--from-literal=password=hunter2", "-n", "team")
    await kubectl("create", "serviceaccount", "bob", "-n", "team")
    token = (await kubectl("create", "token", "bob", "-n", "team")).out.strip()
    await kubectl("create", "job", "j", "--image=busybox", "-n", "team", "--", "sh", "-c", "echo hello")
    whoami = await kubectl(
        "auth", "whoami", "--token", token, "-o", "jsonpath={.status.userInfo.username}", "--kubeconfig", str(_anonymous(served))
    )
    assert whoami.out == "system:serviceaccount:team:bob"
    assert (await served.cluster.get(NAMESPACE, "team"))["status"] == {"phase": "Active"}
    assert (await served.cluster.get(SECRET, "s", "team"))["data"] == {"password": "aHVudGVyMg=="}


def _anonymous(served: Served) -> Path:
    config = yaml.safe_load(served.kubeconfig.read_text())
    config["users"][0]["user"] = {}
    path = served.kubeconfig.with_name("anonymous")
    path.write_text(yaml.safe_dump(config))
    return path


async def test_get_prints_the_columns_of_kubernetes(kubectl: Kubectl, served: Served) -> None:
    await kubectl("apply", "-f", "-", stdin=WEB)
    await kubectl("run", "p", "--image=nginx")
    pods = (await kubectl("get", "pods", "-o", "wide")).out.splitlines()
    assert pods[0].split("  ")[0] == "NAME"
    assert pods[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES"]
    assert pods[1].split()[:4] == ["p", "0/1", "Pending", "0"]
    assert (await kubectl("get", "deploy", "--no-headers")).out.split()[:4] == ["web", "0/1", "0", "0"]
    assert (await kubectl("get", "pods", "-l", "run=p", "-o", "name")).out == "pod/p\n"
    assert (await kubectl("get", "pods", "--field-selector", "status.phase=Running", "-o", "name")).out == ""


async def test_patch_label_scale_and_describe(kubectl: Kubectl, served: Served) -> None:
    await kubectl("apply", "-f", "-", stdin=WEB)
    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "A", "value": "b"}]}]}}}}
    await kubectl("patch", "deployment", "web", "-p", json.dumps(strategic))
    await kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op": "add", "path": "/metadata/labels", "value": {"tier": "x"}}]')
    await kubectl("label", "deployment", "web", "tier=front", "--overwrite")
    await kubectl("scale", "deployment", "web", "--replicas=3")
    found = await served.cluster.get(DEPLOYMENT, "web", "default")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["env"]) == ("nginx", [{"name": "A", "value": "b"}])
    assert (found["spec"]["replicas"], found["metadata"]["labels"]) == (3, {"tier": "front"})
    described = (await kubectl("describe", "deployment", "web")).out
    assert "Replicas:               3 desired" in described
    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in described


async def test_wait_sees_a_condition_come_true(kubectl: Kubectl, served: Served) -> None:
    await kubectl("run", "p", "--image=nginx")
    waiting = asyncio.create_task(kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=90s"))
    status: Manifest = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    await served.cluster.patch(POD, "p", "default", status, subresource="status")
    assert (await waiting).out == "pod/p condition met\n"


async def test_delete_of_an_unscheduled_pod_is_at_once_and_of_a_running_one_waits_for_its_node(kubectl: Kubectl, served: Served) -> None:
    await kubectl("run", "p", "--image=nginx")
    assert (await kubectl("delete", "pod", "p")).out == 'pod "p" deleted from default namespace\n'
    await kubectl("run", "q", "--image=nginx")
    await served.cluster.bind("default", "q", "node-1")
    listing = await served.cluster.list(POD, "default")
    deleting = asyncio.create_task(kubectl("delete", "pod", "q", "--grace-period=7"))
    async for event in served.cluster.watch(POD, "default", since=listing.resource_version):
        if "deletionTimestamp" in event.object["metadata"]:
            assert event.object["metadata"]["deletionGracePeriodSeconds"] == 7
            break
    await served.cluster.delete(POD, "q", "default", grace=timedelta(0))
    assert (await deleting).code == 0


async def test_our_custom_resources_are_served_as_soon_as_they_are_defined(kubectl: Kubectl, tmp_path: Path) -> None:
    path = tmp_path / "crds.yaml"
    path.write_text(yaml.safe_dump_all(crds.definitions()))
    await kubectl("apply", "--server-side", "-f", str(path))
    await kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=90s")
    good = {
        "apiVersion": "amlarc.azureml.com/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": "small"},
        "spec": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}},
    }
    await kubectl("create", "-f", "-", stdin=json.dumps(good))
    assert (await kubectl("get", "it")).out.splitlines()[0].split() == ["NAME", "CPU", "MEMORY", "GPU", "AGE"]
    assert "limits" in (await kubectl("explain", "instancetype.spec.resources")).out
    bad = {**good, "metadata": {"name": "bad"}, "spec": {"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}}
    refused = await kubectl("create", "-f", "-", stdin=json.dumps(bad), code=1)
    assert refused.err == (
        'The InstanceType "bad" is invalid: spec.resources: Invalid value: "object": requests must not be greater than limits\n'
    )
    unknown = {**good, "metadata": {"name": "typo"}, "spec": {**good["spec"], "tolerationz": []}}
    refused = await kubectl("create", "-f", "-", stdin=json.dumps(unknown), code=1)
    assert 'unknown field "spec.tolerationz"' in refused.err


async def test_a_definition_goes_with_the_last_of_its_objects(kubectl: Kubectl, served: Served) -> None:
    (definition,) = [crd for crd in crds.definitions() if crd["spec"]["names"]["kind"] == "InstanceType"]
    await kubectl("create", "-f", "-", stdin=json.dumps(definition))
    for name, finalizers in (("free", []), ("held", ["example.org/hold"])):
        body = {"metadata": {"name": name, "finalizers": finalizers}, "spec": {"resources": {"limits": {"cpu": "1"}}}}
        await served.cluster.create(INSTANCE_TYPE, body)
    await kubectl("delete", "crd", definition["metadata"]["name"], "--wait=false")
    assert [item["metadata"]["name"] for item in (await served.cluster.list(INSTANCE_TYPE)).items] == ["held"]
    await kubectl("patch", "instancetype", "held", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    assert "the server could not find the requested resource" in (await kubectl("get", "instancetypes", code=1)).err


async def test_what_is_not_there_is_said_as_kubernetes_says_it(kubectl: Kubectl) -> None:
    assert 'pods "nope" not found' in (await kubectl("get", "pod", "nope", code=1)).err
    assert "the server doesn't have a resource type" in (await kubectl("get", "cronjobs", code=1)).err
    assert (
        "is invalid: spec.template.spec.containers[0].image: Required value"
        in (await kubectl("apply", "-f", "-", stdin=WEB.replace(", image: nginx", ""), code=1)).err
    )


async def test_get_watch_prints_changes(kubectl: Kubectl, begin: Begin) -> None:
    await kubectl("create", "configmap", "c", "--from-literal=a=b")
    watching = await begin("get", "configmap", "c", "-w", "--no-headers", "--output-watch-events")
    assert (await watching.line()).split()[:2] == ["ADDED", "c"]
    await kubectl("delete", "configmap", "c")
    assert (await watching.line()).split()[:2] == ["DELETED", "c"]
