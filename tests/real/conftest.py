"""A real cluster for the third ring: the one named by MOORAGE_TEST_KUBECONFIG, else the control plane of `scripts/kubernetes`.

Only on request (`scripts/test --real`): starting it takes seconds, building it the first time minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.errors import MoorageError
from moorage.kube import remote
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import NAMESPACE, SERVICE_ACCOUNT
from moorage.kube.metadata import name_of
from moorage.testing.world import until
from tests.real.control_plane import volcano
from tests.real.control_plane.binaries import Binaries, NoBinaries, find, minors
from tests.real.control_plane.plane import Plane, default_folder
from tests.real.guard import objection

ASKED = "MOORAGE_TEST_REAL"
GIVEN = "MOORAGE_TEST_KUBECONFIG"
MINOR = "MOORAGE_KUBERNETES_MINOR"
_HERE = Path(__file__).parent
# The HTTP library leaves a connection to the garbage collector whose TLS handshake was cancelled, which happens with watches that a test
# ends as soon as it has begun them; the warning then hits whatever test comes next.
_LEAKED = ("Exception ignored in. .socket.socket", "Exception ignored in. .function _SelectorTransport.__del__")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real: needs a real Kubernetes API server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    asked = os.environ.get(ASKED) or os.environ.get(GIVEN)
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.real)
            for leaked in _LEAKED:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{leaked}:pytest.PytestUnraisableExceptionWarning"))
            if not asked:
                item.add_marker(pytest.mark.skip(reason="third ring, on a real Kubernetes: scripts/test --real"))


@dataclass(frozen=True, slots=True)
class RealCluster:
    """What tests run against. `plane` is None on a cluster that somebody gave, which they neither restart nor compact."""

    kubeconfig: Path
    plane: Plane | None


@pytest.fixture(scope="session")
def real() -> Iterator[RealCluster]:
    """A marked test cluster; one that this session started ends with it."""
    if given := os.environ.get(GIVEN):
        yield _guarded(RealCluster(Path(given), None))
        return
    plane = Plane(default_folder().absolute())
    was_running = plane.status()["running"]
    minor = os.environ.get(MINOR) or (plane.settings or {}).get("minor") or minors()[0]
    plane.up(minor, lambda: find(minor))
    try:
        yield _guarded(RealCluster(plane.layout.kubeconfig, plane))
    finally:
        if not was_running:
            plane.down()


@pytest.fixture(scope="module")
def plane(real: RealCluster) -> Iterator[Plane]:
    """The control plane with nodes of our own agent."""
    if real.plane is None:
        pytest.skip("a cluster that was given cannot run images that lie in no registry")
    plane = real.plane
    settings = plane.settings or {}
    before = settings.get("nodes") or 0
    if not before:
        plane.up(settings["minor"], unused, nodes=2)
    yield plane
    if not before:
        plane.up(settings["minor"], unused, nodes=0)


@pytest.fixture(scope="module")
def volcano_runs(plane: Plane) -> Iterator[None]:
    """Volcano beside the control plane."""
    settings = plane.settings or {}
    if settings.get("volcano"):
        yield
        return
    try:
        found = volcano.find()
    except NoBinaries as error:
        pytest.skip(f"no Volcano here (docs/how-to/test-on-kubernetes.md): {error}")
    plane.up(settings["minor"], unused, volcano=found)
    yield
    plane.up(settings["minor"], unused, volcano=False)


def unused() -> Binaries:
    """For a control plane that has its binaries."""
    raise AssertionError("the control plane is up already")


def _guarded(real: RealCluster) -> RealCluster:
    """Refuse a cluster that nobody declared to be for tests."""

    async def asked() -> str | None:
        cluster = remote.connect(real.kubeconfig)
        try:
            return await objection(cluster, str(real.kubeconfig))
        finally:
            await cluster.close()

    try:
        refusal = asyncio.run(asked())
    except MoorageError as error:
        refusal = error.message
    finally:
        # As in tests/conftest.py: no loop is left behind that nobody closes.
        asyncio.set_event_loop(None)
    if refusal is not None:
        pytest.exit(refusal, returncode=4)
    return real


@pytest.fixture
async def cluster(real: RealCluster) -> AsyncIterator[Cluster]:
    connected = remote.connect(real.kubeconfig)
    try:
        yield connected
    finally:
        await connected.close()


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    """A fresh namespace that accepts pods, gone some time after the test."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "moorage-test-"}}
    name = name_of(await cluster.create(NAMESPACE, body))
    await until(cluster, SERVICE_ACCOUNT, "default", name, lambda _: True)
    yield name
    await cluster.delete(NAMESPACE, name)
