"""A workspace service of the test's own that has a real cluster as compute: what an operator sets up by hand, in the order of the documentation."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from moorage.cli.home import Home
from moorage.client.profile import save
from moorage.identity.keyfiles import signing_key
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from moorage.identity.roles import Role
from moorage.identity.tokens import Tokens
from moorage.server.settings import Settings
from tests.stack.conftest import KUBECTL, MOORAGE, ROOT, Ran, free_ports

COMPUTE = "local"  # as the examples name it
CLUSTER = "real"
TRAINING = "training"
SETTINGS = {
    "enableTraining": "True",
    "enableInference": "True",
    "inferenceRouterServiceType": "ClusterIP",
    "allowInsecureConnections": "True",
    "inferenceRouterHA": "False",
}
_READY_SECONDS = 60
_HOST = "127.0.0.1"


class Workspace:
    """A running service, the profile of its owner, and the kubeconfig of the cluster."""

    def __init__(self, home: Home, port: int, kubeconfig: Path, host: str = _HOST) -> None:
        self.home = home
        self.kubeconfig = kubeconfig
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOORAGE_", "KUBE"))}
        self.environment = kept | {
            "MOORAGE_HOME": str(home.folder),
            "MOORAGE_PORT": str(port),
            "MOORAGE_PUBLIC_URL": f"https://{host}:{port}",
            "KUBECONFIG": str(kubeconfig),
        }
        self.host = host
        self.since = 0  # where its part of the audit log begins
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The service, and a profile that reaches it as its owner."""
        home = self.home
        home.prepare()
        authority = ensure_authority(home.pki)
        if self.host != _HOST:
            # Where pods have a network of their own, the service listens on this machine's address there.
            certificate = ensure_server_certificate(authority, home.pki, "reached", [self.host])
            paths = {"MOORAGE_TLS_CERTIFICATE": str(certificate.certificate_path), "MOORAGE_TLS_KEY": str(certificate.key_path)}
            kept = ",".join(filter(None, (self.environment.get("NO_PROXY"), self.host)))
            self.environment |= paths | {"MOORAGE_HOST": self.host, "NO_PROXY": kept, "no_proxy": kept}
        token = Tokens(signing_key(home.server / "keys" / "signing.pem")).issue_user("tester", {"/": Role.OWNER}, timedelta(days=1))
        fields = Settings.model_fields
        scope = {name: str(fields[name].default) for name in ("subscription", "resource_group", "workspace")}
        address = {"url": self.environment["MOORAGE_PUBLIC_URL"], "token": token, "ca": str(home.pki / "ca.pem")}
        save({**address, **scope, "kubeconfig": str(self.kubeconfig)}, self.environment)
        with home.log("server").open("ab") as log:
            self._process = subprocess.Popen(
                [*MOORAGE, "run", "server"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=self.environment
            )
        self.until(lambda: self.run("compute", "list").code == 0, "the workspace service answers", _READY_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def run(self, *words: str, timeout: float = 240) -> Ran:
        return self._command([*MOORAGE, *words], timeout)

    def ok(self, *words: str, timeout: float = 240) -> Ran:
        """Run a command that must succeed."""
        ran = self.run(*words, timeout=timeout)
        assert ran.code == 0, f"moorage {' '.join(words)} ended with {ran.code}\n{ran.out}\n{ran.err}\n{self.logs()}"
        return ran

    def kubectl(self, *words: str) -> str:
        ran = self._command([str(KUBECTL), *words], 60)
        assert ran.code == 0, f"kubectl {' '.join(words)}: {ran.err}"
        return ran.out

    def logs(self) -> str:
        return self.home.log("server").read_text(errors="replace")[-3000:]

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something outside of this process that cannot wake us."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{self.logs()}"
            time.sleep(0.2)

    def install(self) -> None:
        """The extension with training and inference, and the cluster attached as compute."""
        settings = [f"{name}={value}" for name, value in SETTINGS.items()]
        self.ok("extension", "create", "--name", "moorage", "--cluster-name", CLUSTER, "--config", *settings)
        cluster = self.ok("cluster", "show", "--name", CLUSTER, "--query", "id", "-o", "tsv").out.strip()
        self.ok("compute", "attach", "--type", "Kubernetes", "--name", COMPUTE, "--resource-id", cluster, "--namespace", TRAINING)

    def remove(self) -> None:
        self.run("extension", "delete", "--name", "moorage", "--force", "--yes")

    def _command(self, words: list[str], timeout: float) -> Ran:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@contextmanager
def served_workspace(folder: Path, kubeconfig: Path, host: str = _HOST, settings: Mapping[str, str] | None = None) -> Iterator[Workspace]:
    """The service over a state folder of its own, with further settings if given; stopped at the end."""
    (port,) = free_ports(1)
    workspace = Workspace(Home(folder), port, kubeconfig, host)
    workspace.environment |= dict(settings or {})
    try:
        workspace.start()
        yield workspace
    finally:
        workspace.stop()
