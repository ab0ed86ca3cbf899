"""What a node's components are told, as functions of where things lie. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.real.node_containers.addresses import PODS, Node

SOCKET = "/run/containerd/containerd.sock"
PAUSE = "moorage.dev/pause:1"
# How soon the loss of a node is seen (40 s and more by default), and yet not mistaken for two busy cores.
LEASE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's things lie.

    Args:
        folder: the node's own folder on this machine.
        pki: certificates of the control plane.
        cgroup: the cgroup below which its pods are, e.g. `/moorage-test/node-0`.
        plugins: the folder of the CNI plugins.
        clamped: this machine may not lower `oom_score_adj`.
    """

    folder: Path
    pki: Path
    cgroup: str
    plugins: str
    clamped: bool


def containerd(place: Place) -> str:
    """containerd's configuration in the form of 1.6, which later ones convert."""
    return f"""version = 2
root = "{place.folder / "containerd"}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = {str(place.clamped).lower()}
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{place.plugins}"
conf_dir = "/run/cni"
"""


def network(node: Node) -> str:
    """Pods are routed rather than bridged, so that an answer from the same node passes kube-proxy's rules as well."""
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": "moorage-test",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": str(node.pods)}]],
                        "dataDir": "/run/cni-addresses",
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
    )


def kubelet(node: Node, place: Place) -> str:
    """A KubeletConfiguration; JSON is YAML."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(place.pki / "ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(place.pki / f"kubelet-{node.name}.pem"),
            "tlsPrivateKeyFile": str(place.pki / f"kubelet-{node.name}.key"),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "podLogsDir": str(place.folder / "pod-logs"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": place.cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "resolvConf": "",
            "nodeLeaseDurationSeconds": LEASE_SECONDS,
            "nodeStatusUpdateFrequency": "2s",
            # The disk belongs to others too: how full it is says nothing about these pods, and no image comes back once it is taken away.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "readOnlyPort": 0,
            "healthzPort": 0,
            "maxPods": 110,
            "logging": {"format": "text"},
        }
    )


def proxy(node: Node, kubeconfig: Path) -> str:
    """A KubeProxyConfiguration that leaves the machine's connection tracking as it is."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": str(PODS),
            "hostnameOverride": node.name,
            "bindAddress": node.address,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
    )
