"""exec, attach, cp and port-forward: the stock kubectl, over WebSocket and SPDY, against containers that really run."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import ssl
import struct
import sys
import termios
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from moorage.embedded import kubeconfig
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.run import Nodes
from moorage.embedded.serve import serve_api
from moorage.embedded.streaming.spdy import DICTIONARY, Broken, Spdy
from moorage.embedded.streaming.websocket import unmask
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import CONFIG_MAP, POD, ROLE, ROLE_BINDING, SERVICE, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest

from .conftest import DEADLINE, Begin, Keys, Kubectl, Served

SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
SERVER = """
import os, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.rfile.read1(65536):
            self.wfile.write(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer((os.environ["POD_IP"], 8000), Echo)
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture
async def served(keys: Keys, tmp_path: Path) -> AsyncIterator[Served]:
    """A served cluster with one node on which pods run."""
    cluster = await open_cluster()
    await cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
    await cluster.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "CA"}})
    nodes = Nodes(cluster, cluster.tokens, names=["n1"], folder=tmp_path / "n", api=("127.0.0.1", 6550), ca=b"CA", proxied=False)
    cluster.backend = nodes
    task = asyncio.create_task(nodes.run())
    try:
        await asyncio.wait_for(nodes.ready.wait(), DEADLINE)
        async with serve_api(cluster, keys.certificate) as serving:
            path = tmp_path / "kubeconfig"
            kubeconfig.write(path, serving.url, keys.authority.pem, cluster.tokens.admin_token)
            yield Served(cluster, serving.url, path, ssl.create_default_context(cafile=str(keys.authority.certificate_path)))
            await nodes.stop_containers()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


async def start(cluster: LocalCluster, name: str, *command: str, **container: object) -> Manifest:
    """A running pod of one container."""
    spec = {
        "name": "main",
        "image": "i",
        "command": list(command),
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    pod: Manifest = {
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": "n1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [spec | container]},
    }
    created = await cluster.create(POD, pod)
    async with asyncio.timeout(DEADLINE):
        async for event in cluster.watch(POD, since=created["metadata"]["resourceVersion"]):
            status = event.object.get("status") or {}
            if event.object["metadata"].get("name") == name and any(
                c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
            ):
                return event.object
    raise AssertionError("the watch ended")


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("environment", [{}, SPDY], ids=["websocket", "spdy"])
async def test_a_command_has_its_streams_and_its_exit_code(
    served: Served, kubectl: Kubectl, begin: Begin, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    await start(served.cluster, "p", "sleep", "1000", workingDir="/w", env=[{"name": "A", "value": "b"}])
    ran = await kubectl("exec", "p", "--", "sh", "-c", "echo $A; pwd; echo bad >&2; exit 7", code=7)
    assert (ran.out, ran.err) == ("b\n/w\n", "bad\ncommand terminated with exit code 7\n")
    refused = await kubectl("exec", "p", "--", "no-such-command", code=1)
    assert 'exec: "no-such-command": executable file not found in $PATH' in refused.err
    data = random.Random(1).randbytes(300_000)
    client = await begin("exec", "-i", "p", "--", "cat")
    client.process.stdin.write(data)  # type: ignore[union-attr]
    client.process.stdin.close()  # type: ignore[union-attr]
    assert await asyncio.wait_for(client.out.read(), DEADLINE) == data
    assert await client.ended() == 0


async def test_a_command_ends_with_its_client_and_with_its_container(served: Served, begin: Begin) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    command = ("exec", "p", "--", "sh", "-c", "sleep 1000 & echo $! $$; wait")
    client = await begin(*command)
    pids = [int(pid) for pid in (await client.line()).split()]
    client.process.kill()
    for pid in pids:
        await gone(pid)
    client = await begin(*command)
    pids = [int(pid) for pid in (await client.line()).split()]
    await served.cluster.delete(POD, "p", "default")
    assert await client.ended() == 137
    for pid in pids:
        await gone(pid)


async def test_a_terminal_has_a_size_and_takes_ctrl_c(served: Served, tmp_path: Path) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    binary = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or pytest.skip("kubectl is not in this environment")
    env = {**os.environ, "KUBECONFIG": str(served.kubeconfig), "HOME": str(tmp_path)}
    words = (binary, "exec", "-it", "p", "--", "sh", "-c", "PS1='ready> ' exec sh -i")
    process = await asyncio.create_subprocess_exec(*words, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    loop, said = asyncio.get_running_loop(), bytearray()

    async def until(pattern: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while not (found := re.search(pattern.encode(), said)):
                said.extend(await loop.run_in_executor(None, os.read, master, 4096))
        del said[: found.end()]

    try:
        await until("ready> ")
        # The size arrives on a stream of its own, so that the first look may be too early.
        os.write(master, b'while [ "$(stty size)" != "33 99" ]; do :; done; echo size-$(stty size)-$TERM\r')
        await until("size-33 99-xterm")
        os.write(master, b"echo pid-$$; exec sh -c 'trap \"echo caught; exit 5\" INT; echo wait''ing; while :; do sleep 1; done'\r")
        await until("waiting")
        os.write(master, b"\x03")
        await until("caught")
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 5
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


async def test_attach_gives_a_container_its_input_and_takes_its_output(served: Served, begin: Begin) -> None:
    script = 'while read line; do echo "got $line"; done; echo over'
    await start(served.cluster, "p", "sh", "-c", script, stdin=True, stdinOnce=True)
    client = await begin("attach", "-i", "-q", "p")
    await client.type(b"one\n")
    assert await client.line() == "got one"
    client.process.stdin.close()  # type: ignore[union-attr]
    assert await client.line() == "over"
    assert await client.ended() == 0


async def test_files_are_copied_there_and_back(served: Served, kubectl: Kubectl, tmp_path: Path) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    data = random.Random(2).randbytes(200_000)
    (tmp_path / "there").write_bytes(data)
    await kubectl("cp", str(tmp_path / "there"), "p:/tmp/x")
    await kubectl("cp", "p:/tmp/x", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.parametrize("environment", [{}, pytest.param(SPDY, marks=pytest.mark.slow)], ids=["websocket", "spdy"])
async def test_a_port_is_forwarded_for_many_connections(served: Served, begin: Begin, environment: dict[str, str]) -> None:
    await start(served.cluster, "p", "python3", "-c", SERVER)
    async for said in served.cluster.logs("default", "p", LogOptions(follow=True)):
        if b"listening" in said:
            break
    await served.cluster.create(
        SERVICE,
        {
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    )
    client = await begin("port-forward", "svc/s", ":80", environment=environment)
    port = int((await client.line()).split(" -> ")[0].rpartition(":")[2])

    async def echo(number: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = random.Random(number).randbytes(100_000)
        writer.write(data)
        heard = await asyncio.wait_for(reader.readexactly(len(data)), DEADLINE)
        writer.close()
        # What comes after the last byte is kubectl's affair: an end or a reset.
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return heard == data

    assert all(await asyncio.gather(*(echo(number) for number in range(8))))


async def test_a_port_on_which_nothing_listens_is_said(served: Served, begin: Begin) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    client = await begin("port-forward", "pod/p", ":81")
    port = int((await client.line()).split(" -> ")[0].rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
    writer.close()
    said = ""
    while "error forwarding port 81" not in said:
        line = await client.line()
        assert line, said
        said += line
    assert "connection refused" in said


async def test_a_stream_needs_the_right_to_create_it_and_a_running_container(served: Served, kubectl: Kubectl) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]}]
    await served.cluster.create(ROLE, {"metadata": {"name": "r", "namespace": "default"}, "rules": rules})
    bound = {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "alice"}]}
    await served.cluster.create(ROLE_BINDING, {"metadata": {"name": "r", "namespace": "default"}, **bound})
    refused = await kubectl("exec", "p", "--as", "alice", "--", "true", code=1)
    assert 'User "alice" cannot create resource "pods/exec" in API group "" in the namespace "default"' in refused.err
    assert "Upgrade request required" in (await kubectl("get", "--raw", "/api/v1/namespaces/default/pods/p/exec?command=x", code=1)).err
    waiting: Manifest = {"name": "main", "image": "i", "command": ["true"], "envFrom": [{"configMapRef": {"name": "none"}}]}
    await served.cluster.create(
        POD, {"metadata": {"name": "q", "namespace": "default"}, "spec": {"nodeName": "n1", "containers": [waiting]}}
    )
    assert 'unable to upgrade connection: container not found ("main")' in (await kubectl("exec", "q", "--", "true", code=1)).err
    assert (
        "the embedded cluster does not serve pods/proxy"
        in (await kubectl("get", "--raw", "/api/v1/namespaces/default/pods/p/proxy/x", code=1)).err
    )


async def test_the_older_websocket_protocol_fragments_pings_and_nonsense(served: Served) -> None:
    await start(served.cluster, "p", "sleep", "1000")

    async def dial(
        protocol: str, command: str = "read+x;echo+%22got+$x%22;exit+3"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]), ssl=served.context)
        path = f"/api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&command={command}&stdin=1&stdout=1"
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.cluster.tokens.admin_token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        key = base64.b64encode(b"0123456789abcdef").decode()
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n".encode())
        return reader, writer, (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode()

    async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        first, size = await asyncio.wait_for(reader.readexactly(2), DEADLINE)
        size = int.from_bytes(await reader.readexactly(2), "big") if size == 126 else size
        return first, await reader.readexactly(size)

    def masked(first: int, data: bytes) -> bytes:
        return bytes([first, 0x80 | len(data)]) + b"abcd" + unmask(data, b"abcd")

    reader, writer, answered = await dial("v4.channel.k8s.io")
    assert answered.startswith("HTTP/1.1 101 ") and "Sec-WebSocket-Protocol: v4.channel.k8s.io" in answered
    writer.write(masked(0x89, b"hello") + masked(0x02, b"\x00o") + masked(0x80, b"ne\n"))
    assert await frame(reader) == (0x8A, b"hello")
    assert await frame(reader) == (0x82, b"\x01got one\n")
    first, status = await frame(reader)
    assert (first, status[0], json.loads(status[1:])["details"]["causes"]) == (0x82, 3, [{"reason": "ExitCode", "message": "3"}])
    writer.close()
    reader, writer, answered = await dial("v4.channel.k8s.io")
    writer.write(bytes([0x82, 2]) + b"\x00x")  # not masked
    assert await asyncio.wait_for(reader.read(), DEADLINE) == b"\x88\x02" + (1002).to_bytes(2, "big")
    writer.close()
    open_before = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    for _ in range(20):
        reader, writer, answered = await dial("v4.channel.k8s.io", "%00")
        first, status = await frame(reader)
        assert (first, status[0]) == (0x82, 3) and b"the command cannot be run" in status
        writer.transport.abort()
    # Each refusal would leave four behind; those of the last ones go in the loop's next turns.
    async with asyncio.timeout(DEADLINE):
        while psutil.Process().num_fds() >= open_before + 50:
            await asyncio.sleep(0.02)
    reader, writer, answered = await dial("v9.channel.k8s.io")
    assert answered.startswith("HTTP/1.1 400 ")
    writer.close()


async def test_a_control_frame_that_is_too_short_is_no_spdy() -> None:
    class Wire:
        async def read(self) -> bytes:
            return struct.pack(">HHI", 0x8003, 1, 2) + b"ab"

        async def write(self, data: bytes) -> None:
            raise AssertionError(data)

        async def close(self) -> None:
            raise AssertionError

    with pytest.raises(Broken, match="2 bytes"):
        await anext(Spdy(Wire()).events())


def test_the_dictionary_of_headers_is_the_one_of_spdy() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@pytest.mark.slow  # a hundred megabytes through TLS twice
async def test_a_large_output_passes_through_without_being_kept(served: Served, begin: Begin) -> None:
    await start(served.cluster, "p", "sleep", "1000")
    before = psutil.Process().memory_info().rss
    client = await begin("exec", "p", "--", "head", "-c", "100000000", "/dev/zero")
    size = most = 0
    while data := await asyncio.wait_for(client.out.read(1 << 20), DEADLINE):
        size += len(data)
        most = max(most, psutil.Process().memory_info().rss)
    assert (size, await client.ended()) == (100_000_000, 0)
    assert most - before < 40_000_000
    # A client that does not read holds the command up, and nothing piles up in between.
    command = ["head", "-c", "100000001", "/dev/zero"]
    client = await begin("exec", "p", "--", *command)
    async with asyncio.timeout(DEADLINE):
        # Not told by its own output: that may come after a flood of zeros.
        while not (found := [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == command]):
            await asyncio.sleep(0.05)
        client.process.send_signal(signal.SIGSTOP)
        written = 0
        while (now := found[0].io_counters().write_chars) != written or not written:
            written = now
            await asyncio.sleep(1)
    assert 0 < written < 50_000_000
    assert psutil.Process().memory_info().rss - before < 40_000_000
    client.process.send_signal(signal.SIGCONT)
