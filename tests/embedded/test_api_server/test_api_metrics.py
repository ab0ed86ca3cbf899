"""`metrics.k8s.io` on a cluster without nodes: what is refused, and to whom."""

from __future__ import annotations

import httpx2

from moorage.kube.kinds import CLUSTER_ROLE_BINDING, POD

from .conftest import Served

PODS, NODES = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", "/apis/metrics.k8s.io/v1beta1/nodes"


async def test_what_cannot_be_answered_is_refused_in_kubernetes_words(served: Served, http: httpx2.AsyncClient) -> None:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    await served.cluster.create(POD, {"metadata": {"name": "waiting", "namespace": "default"}, "spec": spec})
    asked = {
        f"{PODS}/waiting": 'podmetrics.metrics.k8s.io "default/waiting" not found',
        f"{PODS}/nobody": 'pods "nobody" not found',
        f"{NODES}/nobody": 'nodes "nobody" not found',
        "/apis/metrics.k8s.io/v1beta1/pods/waiting": "the server could not find the requested resource",
        "/apis/metrics.k8s.io/v1beta1/deployments": "the server could not find the requested resource",
        "/apis/metrics.k8s.io/v1/pods": "the server could not find the requested resource",
    }
    for path, words in asked.items():
        answered = await http.get(path)
        assert (answered.status_code, answered.json()["message"]) == (404, words), path
    assert (await http.get(PODS)).json()["items"] == []
    assert (await http.delete(f"{PODS}/waiting")).status_code == 405
    assert (await http.get(PODS, params={"watch": "1"})).status_code == 405


async def test_rights_to_figures_are_given_by_the_role_that_metrics_server_ships(served: Served, http: httpx2.AsyncClient) -> None:
    as_ann = {"impersonate-user": "ann"}
    refused = await http.get(PODS, headers=as_ann)
    words = (
        'pods.metrics.k8s.io is forbidden: User "ann" cannot list resource "pods" in API group "metrics.k8s.io" in the namespace "default"'
    )
    assert (refused.status_code, refused.json()["message"]) == (403, words)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregated-metrics-reader"}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]
    await served.cluster.create(CLUSTER_ROLE_BINDING, {"metadata": {"name": "ann"}, "roleRef": role, "subjects": subjects})
    for path in (PODS, NODES):
        assert (await http.get(path, headers=as_ann)).status_code == 200
