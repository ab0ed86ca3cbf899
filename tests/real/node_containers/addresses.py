"""Where nodes, pods and Services are: one range that is nobody's (RFC 2544), cut up by node number. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

# The other half of the range of `control_plane.plane.POD_NETWORK`, so that both kinds of nodes can be up at once.
RANGE = IPv4Network("198.19.0.0/16")
NODES = IPv4Network("198.19.0.0/24")
PODS = IPv4Network("198.19.64.0/18")
SERVICES = IPv4Network("198.19.128.0/20")
# This machine's own address there: the API server's, and that of what tests serve to pods.
HOST = str(NODES[1])
BRIDGE = "moorage-test0"
MOST = 32


@dataclass(frozen=True, slots=True)
class Node:
    """The addresses and names of node `number`."""

    number: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return str(NODES[10 + self.number])

    @property
    def pods(self) -> IPv4Network:
        return list(PODS.subnets(new_prefix=24))[self.number]

    @property
    def link(self) -> str:
        """This machine's end of the wire to it."""
        return f"{BRIDGE}n{self.number}"


def host_routes(nodes: list[Node]) -> list[list[str]]:
    """Arguments of `ip route add` on this machine: pods by their node, Services by the first node's kube-proxy, and nothing of the range goes anywhere else."""
    routes = [[str(each.pods), "via", each.address] for each in nodes]
    return [["unreachable", str(RANGE)], *routes, *([[str(SERVICES), "via", nodes[0].address]] if nodes else [])]


def node_routes(node: Node, count: int) -> list[list[str]]:
    """The same within a node. There is no default route: nothing in it reaches beyond this machine."""
    others = [Node(number) for number in range(count) if number != node.number]
    # kube-proxy turns packets for Services only once they have somewhere to go.
    return [*([str(each.pods), "via", each.address] for each in others), [str(SERVICES), "dev", "eth0"]]
