"""Our own custom resources: that an API server takes their definitions, and that it refuses what they forbid, in words that name the field."""

from __future__ import annotations

import secrets
from typing import Any

from moorage.errors import Conflict, Invalid
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CRD, INSTANCE_TYPE, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT, TRAINING_JOB, Kind
from moorage.specs.manifest import Manifest
from moorage.testing.conformance.violations import smallest, violations
from moorage.testing.world import exists, refused, until
from moorage.wire import crds

_COMMON = {"workspace": "w", "resourceGroup": "g", "compute": "c"}


def an_instance_type(limits: Any, requests: Any = None, **spec: Any) -> Manifest:
    resources = {"limits": limits} if requests is None else {"limits": limits, "requests": requests}
    name = f"moorage-test-{secrets.token_hex(4)}"
    return {
        "apiVersion": INSTANCE_TYPE.api_version,
        "kind": INSTANCE_TYPE.kind,
        "metadata": {"name": name},
        "spec": {"resources": resources, **spec},
    }


def a_training_job(name: str, namespace: str, **spec: Any) -> Manifest:
    body = {**_COMMON, "job": name, "command": "true", "environment": {}, **spec}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": TRAINING_JOB.api_version, "kind": TRAINING_JOB.kind, "metadata": metadata, "spec": body}


class DefinitionConformance:
    """Needs, besides `cluster` and `namespace`, a cluster on which `install` may install our definitions."""

    async def install(self, cluster: Cluster) -> None:
        for definition in crds.definitions():
            await cluster.apply(CRD, definition, manager="moorage-extension")
        for definition in crds.definitions():
            made = await until(cluster, CRD, definition["metadata"]["name"], None, lambda found: "True" in _states(found, "Established"))
            # Kubernetes says here what of a schema it will not hold anybody to.
            assert "True" not in _states(made, "NonStructuralSchema"), made["status"]["conditions"]
        for kind in (INSTANCE_TYPE, TRAINING_JOB, ONLINE_ENDPOINT, ONLINE_DEPLOYMENT):
            await cluster.list(kind)

    async def test_an_instance_type_that_asks_for_what_nobody_can_give_is_invalid(self, cluster: Cluster, namespace: str) -> None:
        await self.install(cluster)
        gpu = "nvidia.com/gpu"
        cases: list[tuple[Manifest, str]] = [
            (an_instance_type({"cpu": "1"}, {gpu: 1}), "GPUs and other extended resources stand under limits"),
            (an_instance_type({"cpu": "1", gpu: "0.5"}), "GPU counts are whole numbers"),
            (an_instance_type({"cpu": "1"}, {"cpu": "1500m"}), "requests must not be greater than limits"),
            (an_instance_type({"memory": "1Gi"}, {"memory": "2G"}), "requests must not be greater than limits"),
            (an_instance_type({"cpu": "much"}), "spec.resources.limits.cpu"),
            (an_instance_type({"cpu": True}), "spec.resources.limits.cpu"),
            (an_instance_type({"cpu": 1}, tolerations=[{"key": "a", "operator": "Maybe"}]), "spec.tolerations[0].operator"),
            (an_instance_type({"cpu": 1}, nodeSelector={"a": 1}), "spec.nodeSelector.a"),
        ]
        for manifest, words in cases:
            with refused(Invalid) as refusal:
                await cluster.create(INSTANCE_TYPE, manifest)
            assert words in refusal.message, (manifest["spec"], refusal.message)
            assert not await exists(cluster, INSTANCE_TYPE, manifest["metadata"]["name"])

    async def test_instance_types_as_people_write_them_are_kept_as_they_are(self, cluster: Cluster, namespace: str) -> None:
        await self.install(cluster)
        cases = [
            an_instance_type({"cpu": 1, "memory": "2Gi", "nvidia.com/gpu": 2}, {"cpu": "700m", "memory": "1500Mi"}),
            an_instance_type({"cpu": "1", "nvidia.com/gpu": "1"}, nodeSelector=None),
            an_instance_type({"cpu": "0.5"}, {"cpu": "0.25"}, tolerations=[{"operator": "Exists"}], nodeSelector={"accelerator": "a100"}),
        ]
        for manifest in cases:
            made = await cluster.create(INSTANCE_TYPE, manifest)
            assert made["spec"]["resources"] == manifest["spec"]["resources"]
            await cluster.delete(INSTANCE_TYPE, made["metadata"]["name"])

    async def test_jobs_and_deployments_are_defaulted_and_held_to_their_enumerations(self, cluster: Cluster, namespace: str) -> None:
        await self.install(cluster)
        made = await cluster.create(TRAINING_JOB, a_training_job("a", namespace, resources={}))
        assert (made["spec"]["cancelRequested"], made["spec"]["resources"]) == (False, {"instanceCount": 1})
        cases: list[tuple[dict[str, Any], str]] = [
            ({"command": ""}, "spec.command"),
            ({"distribution": {"type": "Gossip"}}, "spec.distribution.type"),
            ({"inputs": {"x": {"type": "guess"}}}, "spec.inputs.x.type"),
            ({"environment": {"hash": "XYZ"}}, "spec.environment.hash"),
            ({"limits": {"timeoutSeconds": 0}}, "spec.limits.timeoutSeconds"),
            ({"compute": None}, "spec.compute"),
        ]
        for spec, field in cases:
            with refused(Invalid) as refusal:
                await cluster.create(TRAINING_JOB, a_training_job("b", namespace, **spec))
            assert field in refusal.message, (spec, refusal.message)
        body = {**_COMMON, "endpoint": "e", "deployment": "d", "environment": {}}
        manifest = {
            "apiVersion": ONLINE_DEPLOYMENT.api_version,
            "kind": ONLINE_DEPLOYMENT.kind,
            "metadata": {"name": "d", "namespace": namespace},
            "spec": body,
        }
        deployment = await cluster.create(ONLINE_DEPLOYMENT, manifest)
        limits = {"timeoutMilliseconds": 5000, "queueWaitMilliseconds": 500, "concurrencyPerInstance": 1}
        assert (deployment["spec"]["requests"], deployment["spec"]["replicas"]) == (limits, 1)

    async def test_every_rule_of_a_schema_is_kept(self, cluster: Cluster, namespace: str) -> None:
        await self.install(cluster)
        for kind in (INSTANCE_TYPE, TRAINING_JOB, ONLINE_ENDPOINT, ONLINE_DEPLOYMENT):
            parts, name, where = _schema(kind)["properties"], f"moorage-test-{secrets.token_hex(4)}", namespace if kind.namespaced else None
            base: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
            if where is not None:
                base["metadata"]["namespace"] = where
            for field, spec in violations(parts["spec"], "spec"):
                with refused(Invalid) as refusal:
                    await cluster.create(kind, {**base, "spec": spec})
                assert field in refusal.message, (kind, spec, refusal.message)
            await cluster.create(kind, {**base, "spec": smallest(parts["spec"])})
            try:
                for field, status in violations(parts["status"], "status") if "status" in parts else ():
                    with refused(Invalid) as refusal:
                        await cluster.patch(kind, name, where, {"status": status}, subresource="status")
                    assert field in refusal.message, (kind, status, refusal.message)
                assert "status" not in await cluster.get(kind, name, where)
            finally:
                await cluster.delete(kind, name, where)

    async def test_who_applies_a_job_keeps_its_fields_against_others(self, cluster: Cluster, namespace: str) -> None:
        await self.install(cluster)
        await cluster.apply(TRAINING_JOB, a_training_job("a", namespace), manager="moorage-gateway")
        status = {"phase": "Running", "pods": [{"name": "p", "phase": "Running"}]}
        await cluster.patch(TRAINING_JOB, "a", namespace, {"status": status}, subresource="status")
        with refused(Conflict) as refusal:
            await cluster.apply(TRAINING_JOB, a_training_job("a", namespace, command="false"), manager="stranger", force=False)
        assert '"moorage-gateway"' in refusal.message and ".spec.command" in refusal.message
        changed = await cluster.apply(TRAINING_JOB, a_training_job("a", namespace, cancelRequested=True), manager="moorage-gateway")
        assert (changed["spec"]["cancelRequested"], changed["status"]) == (True, status)


def _schema(kind: Kind) -> Manifest:
    """The schema of the version that we use."""
    (definition,) = [each for each in crds.definitions() if each["spec"]["names"]["kind"] == kind.kind]
    (found,) = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == kind.version]
    return dict(found)


def _states(definition: Manifest, type: str) -> list[str]:
    return [each["status"] for each in (definition.get("status") or {}).get("conditions") or () if each["type"] == type]
