"""Logs of training jobs on their way to the workspace: nothing lost, nothing twice, complete before the job counts as ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from moorage.errors import Invalid, Unavailable
from moorage.gateway.connection import Connection
from moorage.gateway.run import Gateway
from moorage.kube.cluster import Cluster, LogOptions
from moorage.kube.kinds import POD, TRAINING_JOB
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_container, a_pod, a_training_job
from moorage.testing.memory import in_memory_cluster
from moorage.testing.workspace import WorkspacePeer
from moorage.testing.world import until

JOB = ("TrainingJob", "default", "j")
STD = ("j", "user_logs/std_log.txt")


@dataclass
class Node:
    """A node whose containers write what the test says."""

    written: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    ended: set[tuple[str, str]] = field(default_factory=set)
    cut_after: int | None = None  # bytes until the connection breaks, each time
    reads: int = 0
    lives: int = 0  # connections of former ones are broken
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        key = pod["metadata"]["name"], options.container or ""
        if key not in self.written:
            raise Invalid("container is waiting to start")
        self.reads += 1
        sent, life = 0, self.lives
        while True:
            whole = self.written[key]
            while sent < len(whole):
                piece = bytes(whole[sent : sent + 1000])
                if self.cut_after is not None and sent + len(piece) > self.cut_after:
                    yield piece[: self.cut_after - sent]
                    raise Unavailable("connection reset")
                yield piece
                sent += len(piece)
            if key in self.ended or not options.follow:
                return
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.written[key]) > sent or key in self.ended or self.lives > life)  # noqa: B023
            if self.lives > life:
                raise Unavailable("connection reset")

    async def write(self, pod: str, data: bytes, container: str = "main") -> None:
        self.written.setdefault((pod, container), bytearray()).extend(data)
        async with self.changed:
            self.changed.notify_all()

    async def rotate(self, pod: str, left: bytes) -> None:
        """Keep only this of a log; connections break."""
        self.written[pod, "main"] = bytearray(left)
        self.lives += 1
        async with self.changed:
            self.changed.notify_all()

    async def end(self, pod: str, container: str = "main") -> None:
        self.ended.add((pod, container))
        async with self.changed:
            self.changed.notify_all()


@pytest.fixture
async def node() -> Node:
    return Node()


@pytest.fixture
async def cluster(node: Node) -> AsyncIterator[Cluster]:
    async with in_memory_cluster(backend=node) as memory:
        yield memory


@pytest.fixture
async def peer() -> AsyncIterator[WorkspacePeer]:
    async with WorkspacePeer().serving() as peer:
        yield peer


@asynccontextmanager
async def linked(cluster: Cluster, peer: WorkspacePeer) -> AsyncIterator[None]:
    task = asyncio.create_task(Gateway(cluster, Connection(peer.url, peer.cluster, peer.token)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def a_running_job(cluster: Cluster, node: Node, peer: WorkspacePeer, **spec: object) -> None:
    await peer.want(a_training_job("j", **spec))
    await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
    await start_pod(cluster, node, "j-0")


async def start_pod(cluster: Cluster, node: Node, name: str, *, rank: int = 0) -> None:
    pod = a_pod(name, spec={"initContainers": [a_container("fetch")], "nodeName": "n1"}, labels={"moorage.dev/job": "j"})
    pod["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(rank)}
    await cluster.create(POD, pod)
    await node.write(name, b"")
    await set_state(cluster, name, "main", {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, phase="Running")


async def set_state(cluster: Cluster, pod: str, container: str, state: Manifest, *, phase: str) -> None:
    place = "containerStatuses" if container == "main" else "initContainerStatuses"
    status = {"name": container, "state": state, "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
    await cluster.patch(POD, pod, "default", {"status": {"phase": phase, place: [status]}}, subresource="status")


async def end_pod(cluster: Cluster, node: Node, name: str, code: int = 0) -> None:
    await node.end(name)
    await set_state(cluster, name, "main", {"terminated": {"exitCode": code}}, phase="Failed" if code else "Succeeded")


async def end_job(cluster: Cluster, phase: str = "Completed") -> None:
    await cluster.patch(TRAINING_JOB, "j", "default", {"status": {"phase": phase}}, subresource="status")


async def end_both(cluster: Cluster, node: Node) -> None:
    """The job's one pod, and the job."""
    await end_pod(cluster, node, "j-0")
    await end_job(cluster)


def complete(peer: WorkspacePeer) -> bool:
    return JOB in peer.statuses and peer.statuses[JOB].logs_complete


async def test_output_arrives_while_the_job_runs_and_is_complete_before_the_job_has_ended(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        await a_running_job(cluster, node, peer)
        for line in (b"epoch 1\n", b"epoch 2\n"):
            await node.write("j-0", line)
            await peer.until(lambda: peer.logs.get(STD, b"").endswith(line))  # noqa: B023
        await end_job(cluster)
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Completed")
        assert not complete(peer)
        await node.write("j-0", b"done")
        await end_pod(cluster, node, "j-0")
        await peer.until(lambda: complete(peer))
        assert peer.logs[STD] == b"epoch 1\nepoch 2\ndone"


@pytest.mark.slow  # megabytes through many outages
async def test_a_large_log_arrives_byte_for_byte_through_broken_reads_lost_receipts_and_outages(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    content = random.Random(7).randbytes(1_500_000)
    losses = random.Random(8)
    peer.lose = lambda path: path.endswith("reports") and losses.random() < 0.3
    async with linked(cluster, peer):
        await a_running_job(cluster, node, peer)
        node.cut_after = 400_000
        await node.write("j-0", content[:700_000])
        await peer.until(lambda: len(peer.logs.get(STD, b"")) >= 400_000)
        await peer.stop()
        node.cut_after = None
        await node.write("j-0", content[700_000:])
        await end_both(cluster, node)
        await peer.start()
        await peer.until(lambda: complete(peer))
    assert peer.logs[STD] == content


async def test_a_killed_agent_goes_on_where_the_workspace_stands(cluster: Cluster, node: Node, peer: WorkspacePeer) -> None:
    expected = b""
    for life in range(3):
        async with linked(cluster, peer):
            if life == 0:
                await a_running_job(cluster, node, peer)
            piece = b"%d" % life * 5000
            await node.write("j-0", piece)
            expected += piece
            await peer.until(lambda: len(peer.logs.get(STD, b"")) == len(expected))  # noqa: B023
        await node.write("j-0", b"between")
        expected += b"between"
    await end_both(cluster, node)
    async with linked(cluster, peer):
        await peer.until(lambda: complete(peer))
    assert peer.logs[STD] == expected


async def test_a_workspace_that_lost_the_tail_of_a_log_gets_it_again(cluster: Cluster, node: Node, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await a_running_job(cluster, node, peer)
        await node.write("j-0", b"0123456789")
        await peer.until(lambda: peer.logs.get(STD) == b"0123456789")
        del peer.logs[STD][4:]
        await node.write("j-0", b"abc")
        await peer.until(lambda: peer.logs[STD] == b"0123456789abc")


async def rotated(cluster: Cluster, node: Node, peer: WorkspacePeer, kept: int) -> bytes:
    """A log of which the node keeps so many bytes when the connection to it breaks, and to which lines are added before the next; all that was written."""
    written = b"".join(b"line %d\n" % number for number in range(3000))
    await a_running_job(cluster, node, peer)
    await node.write("j-0", written)
    await peer.until(lambda: peer.logs.get(STD) == written, seconds=60)
    more = b"".join(b"and %d\n" % number for number in range(500))
    await node.rotate("j-0", written[len(written) - kept :] + more)
    return written + more


async def test_of_a_log_that_the_node_has_rotated_no_line_is_lost_when_the_connection_breaks(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        whole = await rotated(cluster, node, peer, kept=8000)
        await peer.until(lambda: len(peer.logs[STD]) >= len(whole), seconds=60)
        await node.write("j-0", b"last")
        await end_both(cluster, node)
        await peer.until(lambda: complete(peer), seconds=60)
    assert peer.logs[STD] == whole + b"last"


async def test_a_log_says_where_the_node_threw_lines_away_before_they_could_be_read(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        whole = await rotated(cluster, node, peer, kept=0)
        await peer.until(lambda: peer.logs[STD].endswith(b"and 499\n"), seconds=60)
        await end_both(cluster, node)
        await peer.until(lambda: complete(peer), seconds=60)
    before, _, after = bytes(peer.logs[STD]).partition(b"\n[moorage] The node has thrown away older output of this log.")
    assert whole == before + after.partition(b"\n")[2]


async def test_a_log_that_is_given_up_says_so(cluster: Cluster, node: Node, peer: WorkspacePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage.gateway.logs._NODE_PATIENCE", timedelta(0))
    async with linked(cluster, peer):
        await a_running_job(cluster, node, peer)
        await node.write("j-0", b"first")
        await peer.until(lambda: peer.logs.get(STD) == b"first", seconds=60)
        node.cut_after = 0
        await node.rotate("j-0", b"first and second")
        await end_both(cluster, node)
        await peer.until(lambda: complete(peer), seconds=60)
    assert peer.logs[STD].startswith(b"first\n[moorage] The node of this log has not answered")


async def test_a_new_agent_that_finds_a_rotated_log_sends_what_is_left_of_it(cluster: Cluster, node: Node, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        whole = await rotated(cluster, node, peer, kept=8000)
        await peer.until(lambda: len(peer.logs[STD]) >= len(whole), seconds=60)
    await node.rotate("j-0", b"what came meanwhile")
    await end_both(cluster, node)
    async with linked(cluster, peer):
        await peer.until(lambda: complete(peer), seconds=60)
    assert peer.logs[STD].startswith(whole + b"\n[moorage] The node has thrown away")
    assert peer.logs[STD].endswith(b"\nwhat came meanwhile")


async def a_replaced_pod(cluster: Cluster, node: Node, peer: WorkspacePeer, successor: str) -> None:
    """A job whose first pod has failed, and whose successor's output has arrived after its own."""
    await a_running_job(cluster, node, peer)
    await node.write("j-0", b"first|")
    await peer.until(lambda: peer.logs.get(STD) == b"first|")
    await end_pod(cluster, node, "j-0", code=1)
    await start_pod(cluster, node, successor)
    await node.write(successor, b"second|")
    await peer.until(lambda: peer.logs.get(STD) == b"first|second|")


async def test_a_pod_that_replaces_a_lost_one_continues_its_log_also_over_a_restart_of_the_agent(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        await a_replaced_pod(cluster, node, peer, "j-1")
        await cluster.delete(POD, "j-0", "default")
    await node.write("j-1", b"third")
    async with linked(cluster, peer):
        await peer.until(lambda: peer.logs[STD] == b"first|second|third")


async def test_a_log_of_which_two_pods_are_still_there_is_sent_once_when_the_agent_starts_again(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        await a_replaced_pod(cluster, node, peer, "a-1")
    await node.write("a-1", b"third")
    async with linked(cluster, peer):
        await end_pod(cluster, node, "a-1")
        await end_job(cluster)
        await peer.until(lambda: complete(peer), seconds=60)
    assert peer.logs[STD] == b"first|second|third"


async def test_what_a_lost_pod_wrote_while_no_agent_ran_comes_before_its_successors_lines(
    cluster: Cluster, node: Node, peer: WorkspacePeer
) -> None:
    async with linked(cluster, peer):
        await a_running_job(cluster, node, peer)
        await node.write("j-0", b"first|")
        await peer.until(lambda: peer.logs.get(STD) == b"first|")
    await node.write("j-0", b"last words|")
    await end_pod(cluster, node, "j-0", code=1)
    # Before its predecessor in every list.
    await start_pod(cluster, node, "a-1")
    await node.write("a-1", b"second")
    async with linked(cluster, peer):
        await end_pod(cluster, node, "a-1")
        await end_job(cluster)
        await peer.until(lambda: complete(peer), seconds=60)
    assert peer.logs[STD] == b"first|last words|second"


async def test_each_rank_has_a_log_of_its_own_and_failed_preparation_is_kept(cluster: Cluster, node: Node, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j", resources={"instanceCount": 12}))
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        for rank in (0, 11):
            await start_pod(cluster, node, f"j-{rank}", rank=rank)
            await node.write(f"j-{rank}", b"rank %d" % rank)
        await peer.until(lambda: peer.logs.get(("j", "user_logs/std_log_process_11.txt")) == b"rank 11")
        await peer.until(lambda: peer.logs.get(("j", "user_logs/std_log_process_00.txt")) == b"rank 0")
        await node.write("j-0", b"cannot download", container="fetch")
        await node.end("j-0", container="fetch")
        await set_state(cluster, "j-0", "fetch", {"terminated": {"exitCode": 3}}, phase="Failed")
        await peer.until(lambda: peer.logs.get(("j", "system_logs/fetch_00.txt")) == b"cannot download")


async def test_a_job_that_never_had_a_pod_or_lost_it_is_complete_all_the_same(cluster: Cluster, node: Node, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        await end_job(cluster, "Canceled")
        await peer.until(lambda: complete(peer))
        await peer.want(a_training_job("k"))
        await peer.until(lambda: ("TrainingJob", "default", "k") in peer.statuses)
        assert not peer.statuses[("TrainingJob", "default", "k")].logs_complete
