"""Quotas hold also when many ask at once; and what the cluster leaves out says so."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from moorage.embedded.unserved import UNSERVED

from .conftest import Served

QUOTAS, MAPS = "/api/v1/namespaces/default/resourcequotas", "/api/v1/namespaces/default/configmaps"


async def test_concurrent_creates_never_exceed_a_quota(http: httpx2.AsyncClient, served: Served) -> None:
    present = len((await http.get(MAPS)).json()["items"])
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": str(present + 3)}}}
    assert (await http.post(QUOTAS, json=quota)).status_code == 201
    answers = await asyncio.gather(*(http.post(MAPS, json={"metadata": {"name": f"c{number}"}}) for number in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 9
    refused = next(answer.json()["message"] for answer in answers if answer.status_code == 403)
    limit = present + 3
    assert refused.endswith(f"exceeded quota: q, requested: configmaps=1, used: configmaps={limit}, limited: configmaps={limit}")


@pytest.mark.parametrize(("group", "plural"), sorted(UNSERVED))
async def test_a_kind_that_is_not_served_says_what_to_do_instead(http: httpx2.AsyncClient, group: str, plural: str) -> None:
    answer = await http.get(f"/apis/{group}/v1/{plural}" if group else f"/api/v1/{plural}")
    assert (answer.status_code, answer.json()["reason"]) == (501, "NotImplemented")
    assert UNSERVED[group, plural] in answer.json()["message"] and "docs/limits.md" in answer.json()["message"]


async def test_admission_policies_are_named_in_discovery_without_verbs_so_that_kubectl_asks_and_is_told(http: httpx2.AsyncClient) -> None:
    wanted = {"validatingadmissionpolicies": [], "validatingadmissionpolicybindings": []}
    plain = (await http.get("/apis/admissionregistration.k8s.io/v1")).json()["resources"]
    assert {each["name"]: each["verbs"] for each in plain if "admissionpolic" in each["name"]} == wanted
    form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    groups = (await http.get("/apis", headers={"accept": form})).json()["items"]
    (group,) = [each for each in groups if each["metadata"]["name"] == "admissionregistration.k8s.io"]
    (version,) = group["versions"]
    assert {each["resource"]: each["verbs"] for each in version["resources"] if "admissionpolic" in each["resource"]} == wanted
