"""The flags of each component, as a function of where things lie. Everything listens on 127.0.0.1, with TLS and client certificates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.real.node_containers.configuration import LEASE_SECONDS

HOST = "127.0.0.1"
# Loopback addresses, as the nodes of the embedded cluster can listen on them without any privilege.
SERVICE_RANGE = "127.96.0.0/12"
# Who writes pods, jobs and Secrets is what tests ask of the audit log; bodies are never needed and would hold Secrets.
AUDIT_POLICY = yaml.safe_dump(
    {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in the state folder, the ports, and where clients and pods find the API server and Services.

    Args:
        reached: nodes with networks of their own reach the API server at `host`, as pods do through the Service `kubernetes`.
    """

    folder: Path
    api_port: int
    etcd_port: int
    peer_port: int
    host: str = HOST
    services: str = SERVICE_RANGE
    reached: bool = False

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.folder / "logs" / "audit.log"

    @property
    def etcd_url(self) -> str:
        return f"https://{HOST}:{self.etcd_port}"

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.api_port}"


def flags(layout: Layout) -> dict[str, list[str]]:
    """Each component's arguments, in the order to start."""
    pki = layout.pki
    etcd = layout.etcd_url
    peer = f"https://{HOST}:{layout.peer_port}"
    return {
        "etcd": [
            "--name=test",
            f"--data-dir={layout.folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            f"--cert-file={pki / 'etcd.pem'}",
            f"--key-file={pki / 'etcd.key'}",
            f"--trusted-ca-file={pki / 'ca.pem'}",
            "--client-cert-auth",
            f"--peer-cert-file={pki / 'etcd.pem'}",
            f"--peer-key-file={pki / 'etcd.key'}",
            f"--peer-trusted-ca-file={pki / 'ca.pem'}",
            # Losing a test's data when the machine loses power is fine, and the disk is shared with the tests.
            "--unsafe-no-fsync",
            # With what etcd's HTTP gateway, through which tests compact, dials etcd.
            f"--client-cert-file={pki / 'etcd-client.pem'}",
            f"--client-key-file={pki / 'etcd-client.key'}",
            "--log-level=warn",
        ],
        "kube-apiserver": [
            f"--bind-address={layout.host}",
            f"--advertise-address={layout.host}",
            f"--secure-port={layout.api_port}",
            # Endpoints refuse loopback addresses; pods are told the API's address by their node.
            *([] if layout.reached else ["--endpoint-reconciler-type=none"]),
            # Pods leave a node that is gone soon enough for a test.
            *(["--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=5"] if layout.reached else []),
            f"--etcd-servers={etcd}",
            f"--etcd-cafile={pki / 'ca.pem'}",
            f"--etcd-certfile={pki / 'etcd-client.pem'}",
            f"--etcd-keyfile={pki / 'etcd-client.key'}",
            f"--tls-cert-file={pki / 'apiserver.pem'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.pem'}",
            f"--kubelet-certificate-authority={pki / 'ca.pem'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.pem'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={layout.services}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'service-accounts.key'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            "--authorization-mode=Node,RBAC",
            # The second is on in OpenShift and asks for more permissions than plain Kubernetes.
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            f"--audit-policy-file={layout.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={layout.audit_log}",
            "--allow-privileged",
            "--profiling=false",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={layout.folder / 'controller-manager.kubeconfig'}",
            f"--root-ca-file={pki / 'ca.pem'}",
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            "--use-service-account-credentials",
            *([f"--node-monitor-grace-period={LEASE_SECONDS}s", "--node-monitor-period=1s"] if layout.reached else []),
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ],
        "kube-scheduler": [
            f"--kubeconfig={layout.folder / 'scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ],
    }
