"""Who may do what, over HTTP: roles, bindings, acting as others, granting, reviews and what tokens end with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from moorage.kube.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, POD, ROLE, ROLE_BINDING, SECRET, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest

from .conftest import Kubectl, Served

RBAC = "/apis/rbac.authorization.k8s.io/v1"
PODS = "/api/v1/namespaces/default/pods"
API_GROUP = "rbac.authorization.k8s.io"


def role(name: str, *verbs: str, resources: tuple[str, ...] = ("pods",), names: tuple[str, ...] = ()) -> Manifest:
    rule = {"apiGroups": [""], "resources": list(resources), "verbs": list(verbs)} | ({"resourceNames": list(names)} if names else {})
    return {"metadata": {"name": name, "namespace": "default"}, "rules": [rule]}


def binding(name: str, to: str, user: str, kind: str = "Role") -> Manifest:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "roleRef": {"apiGroup": API_GROUP, "kind": kind, "name": to},
        "subjects": [{"apiGroup": API_GROUP, "kind": "User", "name": user}],
    }


@pytest.fixture
async def alice(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    """Requests of a user who may do what the test grants her; the administrator's right to impersonate brings her in."""
    headers = {"authorization": f"Bearer {served.cluster.tokens.admin_token}", "impersonate-user": "alice"}
    async with httpx2.AsyncClient(base_url=served.url, verify=served.context, headers=headers, timeout=60) as client:
        yield client


async def message(answer: httpx2.Response) -> str:
    assert answer.status_code == 403, answer.text
    return str(answer.json()["message"])


async def test_a_right_begins_and_ends_with_its_binding(served: Served, alice: httpx2.AsyncClient) -> None:
    refused = 'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default"'
    answer = await alice.get(PODS)
    assert await message(answer) == refused
    assert answer.json()["details"] == {"kind": "pods"}
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    assert await message(await alice.get(PODS)) == f'{refused}: rbac: RBAC: role.rbac.authorization.k8s.io "r" not found'
    await served.cluster.create(ROLE, role("r", "list"))
    assert (await alice.get(PODS)).status_code == 200
    assert "at the cluster scope" in await message(await alice.get("/api/v1/pods"))
    await served.cluster.patch(ROLE, "r", "default", {"rules": []})
    assert await message(await alice.get(PODS)) == refused
    await served.cluster.create(ROLE_BINDING, binding("c", "view", "alice", "ClusterRole"))
    assert (await alice.get(PODS)).status_code == 200
    await served.cluster.delete(ROLE_BINDING, "c", "default")
    assert await message(await alice.get(PODS)) == refused


async def test_names_subresources_and_selectors_narrow_a_right(served: Served, alice: httpx2.AsyncClient) -> None:
    await served.cluster.create(ROLE, role("r", "get", "list", "watch", names=("p",)))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    assert (await alice.get(f"{PODS}/p")).status_code == 404
    assert 'pods "q" is forbidden' in await message(await alice.get(f"{PODS}/q"))
    assert (await alice.get(PODS, params={"fieldSelector": "metadata.name=p"})).status_code == 200
    assert 'cannot get resource "pods/log"' in await message(await alice.get(f"{PODS}/p/log"))
    assert 'cannot deletecollection resource "pods"' in await message(await alice.delete(PODS))


async def test_a_selector_means_the_same_to_rights_and_to_lists(served: Served, alice: httpx2.AsyncClient) -> None:
    await served.cluster.create(ROLE, role("r", "list", resources=("secrets",), names=("own",)))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    for name in ("own", "other"):
        await served.cluster.create(SECRET, {"metadata": {"name": name, "namespace": "default"}})
    listed = await alice.get("/api/v1/namespaces/default/secrets", params={"fieldSelector": "type!=(x,metadata.name=own"})
    assert [one["metadata"]["name"] for one in listed.json()["items"]] == ["own"]


async def test_a_pod_that_is_called_like_a_stream_is_none(served: Served, alice: httpx2.AsyncClient) -> None:
    await served.cluster.create(ROLE, role("r", "get", "create"))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    pod = {"metadata": {"name": "exec", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await served.cluster.create(POD, pod)
    answer = await alice.get(f"{PODS}/exec?stdout=1", headers={"connection": "Upgrade", "upgrade": "websocket"})
    assert answer.status_code == 404, answer.text


async def test_nobody_grants_what_he_does_not_hold(served: Served, alice: httpx2.AsyncClient) -> None:
    may = {"apiGroups": [API_GROUP], "resources": ["roles", "rolebindings", "clusterroles"], "verbs": ["create", "update", "get", "patch"]}
    await served.cluster.create(CLUSTER_ROLE, {"metadata": {"name": "w"}, "rules": [may]})
    bound = {**binding("w", "w", "alice", "ClusterRole"), "metadata": {"name": "w"}}
    await served.cluster.create(CLUSTER_ROLE_BINDING, bound)
    roles, bindings = f"{RBAC}/namespaces/default/roles", f"{RBAC}/namespaces/default/rolebindings"
    assert await message(await alice.post(roles, json=role("r", "get", "list"))) == (
        'roles.rbac.authorization.k8s.io "r" is forbidden: user "alice" (groups=["system:authenticated"]) is attempting to grant RBAC '
        'permissions not currently held:\n{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}'
    )
    assert "attempting to grant" in await message(await alice.post(bindings, json=binding("b", "view", "z", "ClusterRole")))
    assert (await alice.post(bindings, json=binding("b", "none", "z"))).status_code == 404
    whole = {"metadata": {"name": "all"}, "rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    assert "must have cluster-admin privileges" in await message(await alice.post(f"{RBAC}/clusterroles", json=whole))
    # What she holds herself, she may hand on; `bind` and `escalate` lift the rule.
    await served.cluster.create(ROLE, role("own", "get"))
    await served.cluster.create(ROLE_BINDING, binding("own", "own", "alice"))
    assert (await alice.post(roles, json=role("r", "get"))).status_code == 201
    assert "attempting to grant" in await message(await alice.put(f"{roles}/r", json=role("r", "get", "delete")))
    labelled = {"metadata": {"labels": {"a": "b"}}}
    patched = await alice.patch(f"{roles}/r", json=labelled, headers={"content-type": "application/merge-patch+json"})
    assert patched.status_code == 200, patched.text
    lifted = [{"apiGroups": [API_GROUP], "resources": ["roles", "clusterroles"], "verbs": ["escalate", "bind"]}]
    await served.cluster.create(ROLE, {"metadata": {"name": "lift", "namespace": "default"}, "rules": lifted})
    await served.cluster.create(ROLE_BINDING, binding("lift", "lift", "alice"))
    assert (await alice.put(f"{roles}/r", json=role("r", "get", "delete"))).status_code == 200
    assert (await alice.post(bindings, json=binding("b", "view", "z", "ClusterRole"))).status_code == 201


async def test_an_apply_that_makes_an_object_needs_the_right_to_create_it(served: Served, alice: httpx2.AsyncClient) -> None:
    await served.cluster.create(ROLE, role("r", "get", "patch", resources=("configmaps",)))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    path = "/api/v1/namespaces/default/configmaps/c"
    headers = {"content-type": "application/apply-patch+yaml"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    refused = await message(await alice.patch(path, params={"fieldManager": "m"}, json=body, headers=headers))
    assert (
        refused
        == 'configmaps "c" is forbidden: User "alice" cannot create resource "configmaps" in API group "" in the namespace "default"'
    )


async def test_blocking_an_owners_deletion_needs_the_right_to_finalize_it(served: Served, alice: httpx2.AsyncClient) -> None:
    await served.cluster.create(ROLE, role("r", "create", "update", resources=("configmaps",)))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    path = "/api/v1/namespaces/default/configmaps"
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "blockOwnerDeletion": True}
    owned = {"metadata": {"name": "c", "ownerReferences": [owner]}}
    refused = await message(await alice.post(path, json=owned))
    assert refused.startswith('configmaps "c" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource')
    owner["blockOwnerDeletion"] = False
    assert (await alice.post(path, json=owned)).status_code == 201
    assert "you can't delete" in await message(await alice.put(f"{path}/c", json={"metadata": {"name": "c"}}))


async def test_acting_as_another_needs_the_right_to(served: Served, http: httpx2.AsyncClient) -> None:
    await served.cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "bob", "namespace": "default"}})
    token = (await http.post("/api/v1/namespaces/default/serviceaccounts/bob/token", json={})).json()["status"]["token"]
    me = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=served.url, verify=served.context, headers=headers, timeout=60) as bob:
        as_alice = [("impersonate-user", "alice"), ("impersonate-group", "g"), ("impersonate-group", "h")]
        refused = await message(await bob.post(me, json={}, headers=as_alice))
        assert "cannot impersonate-on:user-info:create" in refused
        rules = [{"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"]}]
        await served.cluster.create(CLUSTER_ROLE, {"metadata": {"name": "imp"}, "rules": rules})
        account = {"kind": "ServiceAccount", "name": "bob", "namespace": "default"}
        bound = {**binding("imp", "imp", "", "ClusterRole"), "metadata": {"name": "imp"}, "subjects": [account]}
        await served.cluster.create(CLUSTER_ROLE_BINDING, bound)
        shown = (await bob.post(me, json={}, headers=as_alice)).json()["status"]["userInfo"]
        assert shown == {"username": "alice", "groups": ["g", "h", "system:authenticated"]}
        assert (await bob.post(me, json={}, headers=[("impersonate-group", "g")])).status_code == 400


async def test_a_bound_token_ends_with_what_it_is_bound_to(served: Served, http: httpx2.AsyncClient) -> None:
    cluster = served.cluster
    await cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "bob", "namespace": "default"}})
    pod: Manifest = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"serviceAccountName": "bob", "containers": [{"name": "c", "image": "i"}]},
    }
    await cluster.create(POD, pod)
    await cluster.create(SECRET, {"metadata": {"name": "s", "namespace": "default"}})
    path, reviews = "/api/v1/namespaces/default/serviceaccounts/bob/token", "/apis/authentication.k8s.io/v1/tokenreviews"

    async def token(kind: str, name: str, **more: str) -> httpx2.Response:
        ref = {"apiVersion": "v1", "kind": kind, "name": name, **more}
        return await http.post(path, json={"spec": {"boundObjectRef": ref, "audiences": ["https://kubernetes.default.svc", "other"]}})

    async def status(asked: str, *audiences: str) -> Manifest:
        answered = await http.post(reviews, json={"spec": {"token": asked, "audiences": list(audiences)}})
        return dict(answered.json()["status"])

    for_pod = (await token("Pod", "p")).json()["status"]["token"]
    for_secret = (await token("Secret", "s")).json()["status"]["token"]
    shown = await status(for_pod, "other")
    assert (shown["authenticated"], shown["audiences"]) == (True, ["other"])
    assert shown["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert "is invalid for the target audiences" in (await status(for_pod, "third"))["error"]
    assert (await token("Pod", "none")).status_code == 404
    assert (await token("Pod", "p", uid="another")).status_code == 409
    await cluster.delete(SECRET, "s", "default")
    await cluster.delete(POD, "p", "default")
    await cluster.create(POD, pod)
    for ended in (for_pod, for_secret):
        assert (await status(ended)) == {"user": {}, "error": "[invalid bearer token, service account token has been invalidated]"}
        answer = await http.get("/version", headers={"authorization": f"Bearer {ended}"})
        assert answer.status_code == 401


async def test_kubectl_auth_answers_what_a_caller_may_do(kubectl: Kubectl, served: Served) -> None:
    await served.cluster.create(ROLE, role("r", "get", "list", names=()))
    await served.cluster.create(ROLE_BINDING, binding("b", "r", "alice"))
    assert (await kubectl("auth", "can-i", "list", "pods", "--as", "alice")).out == "yes\n"
    assert (await kubectl("auth", "can-i", "delete", "pods", "--as", "alice", code=1)).out == "no\n"
    listed = (await kubectl("auth", "can-i", "--list", "--as", "alice")).out
    assert [line.split() for line in listed.splitlines() if line.startswith("pods")] == [["pods", "[]", "[]", "[get", "list]"]]
    reconciled = await kubectl("auth", "reconcile", "-f", "-", stdin='{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": '
                               '{"name": "r", "namespace": "default"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}]}')  # fmt: skip
    assert "role.rbac.authorization.k8s.io/r reconciled" in reconciled.out
    found = await served.cluster.get(ROLE, "r", "default")
    assert [rule["verbs"] for rule in found["rules"]] == [["get", "list"], ["watch"]]
    spec = {"user": "alice", "resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answered = json.loads((await kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(body))).out)
    assert answered["status"] == {"allowed": True, "reason": 'RBAC: allowed by RoleBinding "b/default" of Role "r" to User "alice"'}
