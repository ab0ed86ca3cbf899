"""Pods as processes: real shims, real mount namespaces, an in-memory cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node import cgroups
from moorage.embedded.node.launch import Confinement
from moorage.embedded.node.run import Nodes
from moorage.embedded.tokens import TokenIssuer
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import CONFIG_MAP, EVENT, NODE, POD, SECRET, SERVICE_ACCOUNT, Kind
from moorage.specs.manifest import Manifest
from moorage.testing.world import until_all

IMAGE = "moorage.dev/component:test"


@asynccontextmanager
async def running(cluster: LocalCluster, folder: Path, *, confined: Confinement | None = None) -> AsyncIterator[Nodes]:
    nodes = Nodes(
        cluster,
        TokenIssuer(Ed25519PrivateKey.generate(), "admin"),
        names=["n1"],
        folder=folder,
        api=("127.0.0.1", 6550),
        ca=b"CA",
        confined=confined,
    )
    cluster.backend = nodes
    task = asyncio.create_task(nodes.run())
    try:
        await asyncio.wait_for(nodes.ready.wait(), 60)
        yield nodes
        for pod in (await cluster.list(POD)).items:
            await cluster.delete(POD, pod["metadata"]["name"], "default", grace=None)
        await until(cluster, lambda pods: not pods)
        async with asyncio.timeout(60):
            while list((folder / "n1" / "pods").iterdir()):
                await asyncio.sleep(0.01)
    except BaseException:
        # Containers outlive their agent, and a test that failed must not leave any to the next.
        await asyncio.wait_for(nodes.stop_containers(), 60)
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    opened = await open_cluster()
    await opened.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
    await opened.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "CA"}})
    yield opened
    await opened.close()


def pod(name: str, script: str, **spec: Any) -> Manifest:
    main = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script], **spec.pop("main", {})}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"restartPolicy": "Never", "nodeName": "n1", "terminationGracePeriodSeconds": 2, "containers": [main], **spec},
    }


async def until(cluster: LocalCluster, holds: Callable[[list[Manifest]], bool], limit: float = 90) -> list[Manifest]:
    """Wait until all pods together satisfy `holds`, following the watch."""
    listing = await cluster.list(POD)
    pods = {item["metadata"]["name"]: item for item in listing.items}
    async with asyncio.timeout(limit):
        stream = cluster.watch(POD, since=listing.resource_version)
        try:
            while not holds(list(pods.values())):
                event = await anext(stream)
                name = event.object["metadata"].get("name", "")
                if event.type == "DELETED":
                    pods.pop(name, None)
                elif event.type != "BOOKMARK":
                    pods[name] = event.object
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
    return list(pods.values())


async def phase(cluster: LocalCluster, name: str, *phases: str) -> Manifest:
    def holds(pods: list[Manifest]) -> bool:
        return any(
            p["metadata"]["name"] == name and (p.get("status") or {}).get("phase") in phases and "startTime" in p["status"] for p in pods
        )

    return next(p for p in await until(cluster, holds) if p["metadata"]["name"] == name)


async def text(cluster: LocalCluster, name: str, **options: Any) -> str:
    return b"".join([chunk async for chunk in cluster.logs("default", name, LogOptions(**options))]).decode()


async def told(cluster: LocalCluster, name: str, *reasons: str) -> None:
    """Wait for events of these reasons: no status waits for them."""

    def holds(events: list[Manifest]) -> bool:
        return set(reasons) <= {event["reason"] for event in events if event["involvedObject"]["name"] == name}

    await until_all(cluster, EVENT, "default", holds, within=timedelta(seconds=60))


async def test_a_pod_runs_to_its_end_with_a_log_and_an_exit_code(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("a", "echo hello; echo $HOME; pwd; exit 3"))
        ended = await phase(cluster, "a", "Failed")
        state = ended["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (3, "Error"), state
        assert (await text(cluster, "a")).splitlines()[0] == "hello"
        assert ended["status"]["podIP"].startswith("127.")
        assert (await cluster.get(NODE, "n1"))["status"]["conditions"][-1]["type"] == "Ready"


@pytest.mark.parametrize("mode", ["root", "user"])
async def test_volumes_appear_at_their_paths_and_never_on_the_host(cluster: LocalCluster, tmp_path: Path, mode: str) -> None:
    if mode == "root" and os.geteuid() != 0:
        pytest.skip("only root has mount namespaces without a user namespace")
    await cluster.create(SECRET, {"metadata": {"name": "s", "namespace": "default"}, "data": {"key": "c2VjcmV0"}})
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("from the host")
    script = (
        "exec 2>&1; cat /moorage-x/plan/p; cat /etc/moorage-x/key; stat -Lc %a /etc/moorage-x/key; cat /srv/h/file; pwd; touch here /tmp/there;"
        "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; ls /tmp; test -s /var/run/secrets/kubernetes.io/serviceaccount/token;"
        "echo bad > /srv/h/file; echo $KUBERNETES_SERVICE_HOST; which moorage >/dev/null && python -c 'import moorage'; printf done > /dev/termination-log"
    )
    mounts = [
        {"name": "plan", "mountPath": "/moorage-x/plan"},
        {"name": "secret", "mountPath": "/etc/moorage-x"},
        {"name": "host", "mountPath": "/srv/h", "readOnly": True},
        {"name": "work", "mountPath": "/mnt/azureml-x"},
    ]
    volumes = [
        {"name": "plan", "configMap": {"name": "late"}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "host", "hostPath": {"path": str(tmp_path / "host")}},
        {"name": "work", "emptyDir": {}},
    ]
    async with running(cluster, tmp_path / "nodes", confined=Confinement(mode)):
        await cluster.create(POD, pod("v", script, volumes=volumes, main={"volumeMounts": mounts, "workingDir": "/mnt/azureml-x/code"}))
        waiting = await phase(cluster, "v", "Pending")
        assert waiting["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
        await cluster.create(CONFIG_MAP, {"metadata": {"name": "late", "namespace": "default"}, "data": {"p": "plan\n"}})
        ended = await phase(cluster, "v", "Succeeded", "Failed")
        lines = (await text(cluster, "v")).splitlines()
        assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "done"
        assert lines[:4] == ["plan", "secret400", "from the host/mnt/azureml-x/code", "default"]
        assert "there" in lines
        assert "Read-only file system" in lines[-2]
        assert lines[-1] == "127.0.0.1"
        await told(cluster, "v", "FailedMount")
    assert (tmp_path / "host" / "file").read_text() == "from the host"
    for path in ("/moorage-x", "/etc/moorage-x", "/srv/h", "/mnt/azureml-x", "/tmp/there", "/dev/termination-log"):
        assert not Path(path).exists()


def terminated(ended: Manifest, index: int = 0, among: str = "containerStatuses") -> Manifest:
    return dict(ended["status"][among][index]["state"]["terminated"])


async def test_init_containers_run_in_order_and_a_sidecar_ends_after_the_main_container(cluster: LocalCluster, tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "work", "mountPath": "/work-x"}], "image": IMAGE}
    sidecar = "trap 'cat /work-x/main; echo stored; exit 0' TERM; touch /work-x/side; while :; do sleep 0.05 & wait; done"
    inits = [
        {"name": "first", "command": ["sh", "-c", "echo 1 > /work-x/order"], **mount},
        {
            "name": "side",
            "command": ["sh", "-c", sidecar],
            "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["test", "-e", "/work-x/side"]}, "periodSeconds": 1},
            **mount,
        },
        {"name": "second", "command": ["sh", "-c", "cat /work-x/order; test -e /work-x/side && echo 2 >> /work-x/order"], **mount},
    ]
    main = {"volumeMounts": mount["volumeMounts"]}
    async with running(cluster, tmp_path):
        script = "cat /work-x/order; echo written by main > /work-x/main"
        await cluster.create(POD, pod("i", script, initContainers=inits, main=main, volumes=[{"name": "work", "emptyDir": {}}]))
        ended = await phase(cluster, "i", "Succeeded", "Failed")
        assert await text(cluster, "i", container="main") == "1\n2\n"
        assert await text(cluster, "i", container="side") == "written by main\nstored\n"
        assert [status["name"] for status in ended["status"]["initContainerStatuses"]] == ["first", "side", "second"]
        assert ended["status"]["phase"] == "Succeeded"
        assert terminated(ended, 1, "initContainerStatuses")["exitCode"] == 0


async def test_a_container_over_its_memory_limit_is_oom_killed(cluster: LocalCluster, tmp_path: Path) -> None:
    script = "python -c 'x = bytearray(200 * 2**20); print(len(x))'"
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("o", script, main={"resources": {"limits": {"memory": "64Mi"}}}))
        state = terminated(await phase(cluster, "o", "Failed", "Succeeded"))
        assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


async def test_without_a_memory_controller_the_shim_watches_the_limit(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "detect", cgroups.Cgroups)
    script = "python -c 'import time; x = bytearray(b\"x\") * (100 * 2**20); time.sleep(60)'"
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("o", script, main={"resources": {"limits": {"memory": "64Mi"}}}))
        state = terminated(await phase(cluster, "o", "Failed", "Succeeded"))
        assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


async def test_deletion_gives_the_grace_then_kills_the_whole_tree(cluster: LocalCluster, tmp_path: Path) -> None:
    mark = f"97.{os.getpid()}"
    script = f"trap 'echo asked' TERM; (trap '' TERM; setsid sleep {mark} & ) ; echo up; while :; do sleep 0.05; done"
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("g", script, terminationGracePeriodSeconds=600))
        await phase(cluster, "g", "Running")
        async with aclosing(cluster.logs("default", "g", LogOptions(follow=True))) as chunks:
            assert await anext(chunks) == b"up\n", "only now does it know what to do when asked"
            await cluster.delete(POD, "g", "default")
            said = b""
            while b"asked" not in said:
                said += await anext(chunks)
            # It does not go by itself: whoever has waited enough shortens the grace.
            await cluster.delete(POD, "g", "default", grace=timedelta(seconds=1))
            await until(cluster, lambda pods: not pods)
    assert not any(mark.encode() in cmdline(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_deletion_that_comes_while_a_status_is_being_written_is_heard(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The informer tells of it once; the answer to the write, which is older, comes later."""
    write, deleted = cluster.patch, False

    async def late(kind: Kind, name: str, *rest: Any, **options: Any) -> Manifest:
        nonlocal deleted
        answer = await write(kind, name, *rest, **options)
        if kind == POD and answer["status"].get("phase") == "Running" and not deleted:
            deleted = True
            await cluster.delete(POD, name, "default")
            (kept,) = nodes.nodes["n1"]._pods.values()
            async with asyncio.timeout(60):
                while "deletionTimestamp" not in kept.manifest["metadata"]:
                    await asyncio.sleep(0.01)
        return answer

    monkeypatch.setattr(cluster, "patch", late)
    async with running(cluster, tmp_path) as nodes:
        await cluster.create(POD, pod("l", "exec sleep 300"))
        await until(cluster, lambda pods: deleted and not pods)


async def test_a_command_that_does_not_exist_is_a_start_error(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("s", "", main={"command": ["no-such-program"]}))
        state = terminated(await phase(cluster, "s", "Failed"))
        assert (state["exitCode"], state["reason"]) == (128, "StartError")
        assert state["message"] == 'exec: "no-such-program": executable file not found in $PATH'


async def test_a_failing_container_is_restarted_then_held_back(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("c", "echo try; exit 1", restartPolicy="Always"))

        def held(pods: list[Manifest]) -> bool:
            states = [status for item in pods for status in item.get("status", {}).get("containerStatuses", ())]
            return any(status["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff" for status in states)

        (item,) = await until(cluster, held)
        status = item["status"]["containerStatuses"][0]
        assert status["restartCount"] == 1
        assert status["lastState"]["terminated"]["exitCode"] == 1
        assert "back-off 10s restarting failed container=main pod=c_default(" in status["state"]["waiting"]["message"]
        assert await text(cluster, "c", previous=True) == "try\n"


@pytest.mark.slow  # probes take their seconds
async def test_probes_decide_readiness_and_restart(cluster: LocalCluster, tmp_path: Path) -> None:
    script = (
        "cat > s.py <<'E'\nimport http.server, os\nclass H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200 if self.path == '/live' and not os.path.exists('/tmp/sick') else 500)\n        self.end_headers()\n"
        "http.server.HTTPServer((os.environ['IP'], 18080), H).serve_forever()\nE\nexec python s.py"
    )
    main = {
        "workingDir": "/work-x",
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 18080}],
        "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 90},
        "readinessProbe": {"exec": {"command": ["test", "-e", "/work-x/s.py"]}, "periodSeconds": 1},
        # An answer that says no counts, and not that a busy machine answers late.
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /proc/1/fd/none || true"]}}},
    }
    async with running(cluster, tmp_path) as nodes:
        await cluster.create(POD, pod("p", script, restartPolicy="Always", main=main))
        (item,) = await until(cluster, lambda pods: any(ready(item) for item in pods))
        assert item["status"]["conditions"][2]["type"] == "Ready"
        kept = next(iter(nodes.nodes["n1"]._pods.values()))
        attempt = kept.containers["main"].attempt
        assert attempt is not None
        (attempt.folder / "tmp" / "sick").touch()
        (item,) = await until(cluster, lambda pods: pods[0]["status"]["containerStatuses"][0]["restartCount"] == 1)
        await told(cluster, "p", "Unhealthy", "Killing", "Created", "Started")


def ready(item: Manifest) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in item.get("status", {}).get("conditions", ()))


async def test_without_a_mount_namespace_paths_are_rewritten_and_an_event_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    main = {
        "volumeMounts": [{"name": "work", "mountPath": "/work-x"}],
        "workingDir": "/work-x/code",
        "env": [{"name": "PLACE", "value": "/work-x/out"}],
    }
    script = "echo fine > /work-x/out; cat $PLACE; pwd; echo /work-xyz"
    async with running(cluster, tmp_path, confined=Confinement("none", "forced by the test")):
        await cluster.create(POD, pod("f", script, main=main, volumes=[{"name": "work", "emptyDir": {}}]))
        await phase(cluster, "f", "Succeeded")
        lines = (await text(cluster, "f")).splitlines()
        assert lines[0] == "fine"
        assert lines[1].startswith(str(tmp_path))
        assert lines[2] == "/work-xyz"
        await told(cluster, "f", "MountNamespaceUnavailable")
    assert not Path("/work-x").exists()


async def test_another_image_means_the_bare_interpreter_and_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(
            POD, pod("b", "python -c 'import moorage' 2>&1 | tail -1; env | grep -c SECRET_OF_AGENT", main={"image": "python:3.11"})
        )
        await phase(cluster, "b", "Succeeded", "Failed")
        assert (await text(cluster, "b")).splitlines() == ["ModuleNotFoundError: No module named 'moorage'", "0"]
        await told(cluster, "b", "ImageNotPulled")


async def test_a_missing_secret_in_env_waits_and_goes_on_when_it_comes(cluster: LocalCluster, tmp_path: Path) -> None:
    env = [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("w", "echo $K", main={"env": env}))
        waiting = await phase(cluster, "w", "Pending")
        assert waiting["status"]["containerStatuses"][0]["state"]["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": 'secret "later" not found',
        }
        await cluster.create(SECRET, {"metadata": {"name": "later", "namespace": "default"}, "data": {"k": "djE="}})
        await phase(cluster, "w", "Succeeded")
        assert await text(cluster, "w") == "v1\n"


async def test_a_changed_config_map_reaches_a_running_container(cluster: LocalCluster, tmp_path: Path) -> None:
    await cluster.create(CONFIG_MAP, {"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "old"}})
    main = {"volumeMounts": [{"name": "m", "mountPath": "/map-x"}]}
    script = "cat /map-x/k; until grep -q new /map-x/k; do sleep 0.05; done; cat /map-x/k"
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("u", script, main=main, volumes=[{"name": "m", "configMap": {"name": "m"}}]))
        await phase(cluster, "u", "Running")
        # Running says the process was started, not that its shell has read the file.
        while await text(cluster, "u") != "old":
            await asyncio.sleep(0.05)
        await cluster.patch(CONFIG_MAP, "m", "default", {"data": {"k": "new"}})
        await phase(cluster, "u", "Succeeded")
        assert await text(cluster, "u") == "oldnew"


async def test_a_pod_over_its_deadline_fails_with_the_reason(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("d", "sleep 60", activeDeadlineSeconds=1))
        ended = await phase(cluster, "d", "Failed")
        assert ended["status"]["reason"] == "DeadlineExceeded"
        assert terminated(ended)["exitCode"] == 143


async def test_logs_can_be_cut_and_stamped(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("l", "seq 1 30000; printf 'no end'"))
        await phase(cluster, "l", "Succeeded")
        assert await text(cluster, "l", tail=3) == "29999\n30000\nno end"
        whole = await text(cluster, "l")
        assert whole.splitlines()[:-1] == [str(n) for n in range(1, 30001)]
        stamped = (await text(cluster, "l", tail=2, timestamps=True)).splitlines()
        assert [line[30:] for line in stamped] == [" 30000", " no end"]
