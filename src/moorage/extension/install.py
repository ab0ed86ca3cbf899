"""Installs, shows and deletes the extension through the Cluster protocol: the same path into the embedded cluster as into any other.

Every step is an apply or a delete that may be repeated, so an interrupted install is finished, or undone, by running the command again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from moorage.clock import monotonic, rfc3339
from moorage.errors import Conflict, Invalid, MoorageError, NotFound, Unavailable
from moorage.extension.health import CrashLoop, Finding, preflight, unhealthy, why_not_ready
from moorage.extension.manifests import MANAGED_BY, NAMESPACE, Component, Connection, components, render
from moorage.extension.settings import ExtensionSettings, check_name, parse_settings
from moorage.extension.watching import patiently, until
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CONFIG_MAP,
    CRD,
    DEPLOYMENT,
    INSTANCE_TYPE,
    NODE,
    ONLINE_DEPLOYMENT,
    POD,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    TRAINING_JOB,
    kind_of,
)
from moorage.kube.kinds import (
    NAMESPACE as NAMESPACE_KIND,
)
from moorage.specs.manifest import Manifest

MANAGER = "moorage-extension"
RECORD = "moorage-extension"
HEALTH_REPORT = "arcml-healthcheck"
# Of these kinds the settings decide what there is.
_CHANGING = (DEPLOYMENT, SERVICE, SECRET, CLUSTER_ROLE_BINDING, CLUSTER_ROLE, SERVICE_ACCOUNT)
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Installed:
    """What `extension show` says."""

    name: str
    state: str
    message: str
    settings: dict[str, str]
    version: str
    components: Sequence[tuple[Component, str]]


async def install(
    cluster: Cluster,
    name: str,
    settings: ExtensionSettings,
    connection: Connection,
    *,
    now: datetime,
    report: Report,
    wait: timedelta | None = timedelta(minutes=5),
    any_version: bool = False,
) -> Installed:
    """Install or update the extension.

    Args:
        cluster: the target.
        name: extension name; a second one of another name is refused.
        settings: checked settings.
        connection: how the agent reaches the workspace service.
        now: for the record.
        report: gets one line of progress a step.
        wait: how long to wait for its pods; None returns at once.
        any_version: install outside the supported Kubernetes versions.

    Raises:
        Conflict: another extension is installed, or objects have another owner.
        Invalid: the pre-install check found a critical problem.
        Unavailable: the pods did not become ready in time; the message says why.
    """
    check_name(name)
    wanted = render(name, settings, connection)
    findings = await _check(cluster, name, settings, wanted, any_version=any_version)
    report(f"pre-install check passed ({len(findings)} notes)")
    for manifest in wanted:
        await _apply(cluster, manifest)
        if manifest["kind"] == "Namespace":
            await _write_record(cluster, name, settings, "Creating", "", now)
            await _write_report(cluster, "reports-pre-install", findings, now)
        if manifest["kind"] == "CustomResourceDefinition":
            await _established(cluster, manifest["metadata"]["name"])
    stale = await _remove_leftovers(cluster, name, wanted)
    report(f"{len(wanted)} objects applied" + (f", {stale} old ones removed" if stale else ""))
    if wait is not None:
        try:
            await _wait_ready(cluster, [each for each in wanted if each["kind"] == "Deployment"], wait, report)
        except MoorageError as error:
            await _write_record(cluster, name, settings, "Failed", error.message, now)
            raise
        await _write_record(cluster, name, settings, "Succeeded", "", now)
    return await show(cluster, name)


async def show(cluster: Cluster, name: str) -> Installed:
    """The extension's state, each documented component with its own; NotFound when it is not installed."""
    record = await _record(cluster)
    if record is None or record["data"]["name"] != name:
        other = f" This cluster has the extension '{record['data']['name']}'." if record else ""
        raise NotFound(f"The extension '{name}' is not installed in this cluster.{other}", target=name)
    data = record["data"]
    settings = parse_settings(json.loads(data["settings"]))
    deployments = {each["metadata"]["name"]: each for each in (await cluster.list(DEPLOYMENT, NAMESPACE)).items}
    rows = [(row, _component_state(row, deployments)) for row in components(settings)]
    state, message = data["state"], data.get("message", "")
    live = [_deployment_ready(each) for each in deployments.values()]
    if state == "Creating" and all(state == "Ready" for row, state in rows if row.carried_by):
        state = "Succeeded"
    elif state == "Succeeded" and not all(live):
        found = unhealthy((await cluster.list(POD, NAMESPACE, labels=_selector())).items)
        state, message = "Failed", " ".join(str(each) for each in found) or "a component has no ready pod"
    return Installed(name, state, message, settings.shown(), data.get("version", ""), rows)


async def list_installed(cluster: Cluster) -> list[Installed]:
    """None or one: a cluster holds one extension."""
    record = await _record(cluster)
    return [await show(cluster, record["data"]["name"])] if record else []


async def delete(
    cluster: Cluster, name: str, *, force: bool = False, wait: timedelta | None = timedelta(minutes=2), report: Report
) -> None:
    """Remove the extension and everything of it; instance types that IT operations made stay, and their definition with them.

    Raises:
        NotFound: not installed.
        Conflict: jobs or deployments still run here and not `force`; names them and the remedy.
    """
    record = await _record(cluster)
    if record is None or record["data"]["name"] != name:
        raise NotFound(f"The extension '{name}' is not installed in this cluster.", target=name)
    running = [each async for each in _workloads(cluster)]
    if running and not force:
        shown = ", ".join(running[:5]) + ("..." if len(running) > 5 else "")
        raise Conflict(
            f"{len(running)} workloads are still in this cluster: {shown}. Detach its compute targets first, or use --force.", target=name
        )
    settings = parse_settings(json.loads(record["data"]["settings"]))
    keep_types = await _has_instance_types(cluster)
    doomed = [each for each in reversed(render(name, settings, Connection("", "", "", ""))) if each["kind"] != "Namespace"]
    for manifest in doomed:
        if keep_types and manifest["metadata"]["name"] == f"{INSTANCE_TYPE.plural}.{INSTANCE_TYPE.group}":
            continue
        await _delete(cluster, manifest)
    # Of other settings, when a change of them was cut off.
    stale = await _remove_leftovers(cluster, name, ())
    report(f"{len(doomed) + stale} objects removed" + ("; instance types stay" if keep_types else ""))
    await _delete(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    if wait is not None:
        await _wait_gone(cluster, wait)
        report(f"namespace {NAMESPACE} is gone")


async def _check(
    cluster: Cluster, name: str, settings: ExtensionSettings, wanted: Sequence[Manifest], *, any_version: bool
) -> list[Finding]:
    try:
        namespace = await cluster.get(NAMESPACE_KIND, NAMESPACE)
    except NotFound:
        namespace = None
    if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
        raise Conflict(
            f"The namespace {NAMESPACE} is being terminated. Wait until it is gone (kubectl get ns {NAMESPACE} -w) and run this again."
        )
    record = await _record(cluster) if namespace is not None else None
    if record is not None and record["data"]["name"] != name:
        other = record["data"]["name"]
        raise Conflict(
            f"This cluster already has the extension '{other}'. Delete it first (moorage extension delete --name {other}), or use its name.",
            target="name",
        )
    existing = [found for each in wanted if (found := await _get(cluster, each)) is not None] if record is None else []
    findings = preflight(settings, await cluster.version(), (await cluster.list(NODE)).items, existing, any_version=any_version)
    if blocking := [each for each in findings if each.critical or "CONFLICT" in each.code.name]:
        raise Invalid(" ".join(str(each) for each in blocking), code=blocking[0].code.value)
    return findings


async def _get(cluster: Cluster, manifest: Manifest) -> Manifest | None:
    kind = kind_of(manifest["apiVersion"], manifest["kind"])
    try:
        return await cluster.get(kind, manifest["metadata"]["name"], manifest["metadata"].get("namespace"))
    except NotFound:
        return None


async def _apply(cluster: Cluster, manifest: Manifest) -> None:
    await patiently(lambda: cluster.apply(kind_of(manifest["apiVersion"], manifest["kind"]), manifest, manager=MANAGER))


async def _delete(cluster: Cluster, manifest: Manifest) -> None:
    try:
        await cluster.delete(
            kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"], manifest["metadata"].get("namespace")
        )
    except NotFound:
        return


async def _remove_leftovers(cluster: Cluster, name: str, wanted: Sequence[Manifest]) -> int:
    """What an earlier install with other settings left: the router when inference was switched off."""
    keep = {(each["kind"], each["metadata"]["name"]) for each in wanted}
    removed = 0
    for kind in _CHANGING:
        for live in (await cluster.list(kind, NAMESPACE if kind.namespaced else None, labels=f"moorage.dev/extension={name}")).items:
            if (kind.kind, live["metadata"]["name"]) not in keep:
                await _delete(cluster, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": live["metadata"]})
                removed += 1
    return removed


async def _record(cluster: Cluster) -> Manifest | None:
    try:
        return await cluster.get(CONFIG_MAP, RECORD, NAMESPACE)
    except NotFound:
        return None


async def _write_record(cluster: Cluster, name: str, settings: ExtensionSettings, state: str, message: str, now: datetime) -> None:
    from moorage import __version__

    data = {
        "name": name,
        "state": state,
        "message": message,
        "settings": json.dumps(settings.shown()),
        "version": __version__,
        "changed": rfc3339(now),
    }
    await _apply(cluster, _config_map(RECORD, data))


async def _write_report(cluster: Cluster, key: str, findings: Sequence[Finding], now: datetime) -> None:
    body = {
        "time": rfc3339(now),
        "findings": [
            {"code": each.code.value, "name": each.code.name, "evidence": each.evidence, "remedy": each.remedy} for each in findings
        ],
    }
    await _apply(cluster, _config_map(HEALTH_REPORT, {key: json.dumps(body)}))


def _config_map(name: str, data: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(MANAGED_BY)},
        "data": data,
    }


async def _established(cluster: Cluster, name: str) -> None:
    """Wait until the API serves a CRD: a custom resource written earlier would be refused."""

    def established(crd: Manifest) -> bool:
        conditions = (crd.get("status") or {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    try:
        async with asyncio.timeout(30):
            await until(cluster, CRD, None, lambda found: any(established(each) for each in found), fields=f"metadata.name={name}")
    except TimeoutError as error:
        raise Unavailable(f"The cluster did not take the definition {name} within 30 s. See kubectl describe crd {name}.") from error


async def _wait_ready(cluster: Cluster, deployments: Sequence[Manifest], wait: timedelta, report: Report) -> None:
    waiting = {each["metadata"]["name"] for each in deployments}

    def done(found: Sequence[Manifest]) -> bool:
        for each in found:
            if each["metadata"]["name"] in waiting and _deployment_ready(each):
                waiting.discard(each["metadata"]["name"])
                report(f"{each['metadata']['name']} ready")
        return not waiting

    ready = asyncio.create_task(until(cluster, DEPLOYMENT, NAMESPACE, done))
    hopeless = asyncio.create_task(until(cluster, POD, NAMESPACE, CrashLoop()))
    began = monotonic()
    try:
        await asyncio.wait({ready, hopeless}, timeout=wait.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            return
    finally:
        for task in (ready, hopeless):
            task.cancel()
        await asyncio.gather(ready, hopeless, return_exceptions=True)
    pods = (await cluster.list(POD, NAMESPACE)).items
    reasons = "; ".join(f"{pod['metadata']['name']}: {why}" for pod in pods if (why := why_not_ready(pod)))
    raise Unavailable(
        f"{', '.join(sorted(waiting))} not ready after {monotonic() - began:.0f} s. {reasons or 'No pod was created.'} "
        f"See kubectl -n {NAMESPACE} get events; then run the command again, or moorage extension delete.",
        code="ExtensionNotReady",
    )


def _deployment_ready(deployment: Manifest) -> bool:
    """As `kubectl rollout status` decides: the newest generation seen, every wanted replica updated and available."""
    status = deployment.get("status") or {}
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    return bool(seen and status.get("updatedReplicas", 0) >= wanted and status.get("availableReplicas", 0) >= wanted)


def _component_state(row: Component, deployments: dict[str, Manifest]) -> str:
    if row.carried_by is None:
        return "NotInstalled"
    carrier = deployments.get(row.carried_by)
    if carrier is None:
        return "Missing"
    return "Ready" if _deployment_ready(carrier) else "NotReady"


def _selector() -> str:
    return ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())


async def _workloads(cluster: Cluster) -> AsyncIterator[str]:
    for kind in (TRAINING_JOB, ONLINE_DEPLOYMENT):
        try:
            listing = await cluster.list(kind)
        except NotFound:
            continue
        for each in listing.items:
            if (each.get("status") or {}).get("phase") not in ("Completed", "Failed", "Canceled") or kind is ONLINE_DEPLOYMENT:
                yield f"{kind.kind} {each['metadata']['namespace']}/{each['metadata']['name']}"


async def _has_instance_types(cluster: Cluster) -> bool:
    try:
        return bool((await cluster.list(INSTANCE_TYPE)).items)
    except NotFound:
        return False


async def _wait_gone(cluster: Cluster, wait: timedelta) -> None:
    try:
        async with asyncio.timeout(wait.total_seconds()):
            await until(cluster, NAMESPACE_KIND, None, lambda found: not found, fields=f"metadata.name={NAMESPACE}")
    except TimeoutError as error:
        raise Unavailable(
            f"The namespace {NAMESPACE} is still being terminated after {wait.total_seconds():.0f} s. See kubectl get ns {NAMESPACE} -o yaml."
        ) from error
