"""What the API says about itself: groups, versions and resources, in the old form and in the aggregated one that kubectl asks for."""

from __future__ import annotations

from typing import Any

from moorage.embedded import metrics, reviews, unserved
from moorage.embedded.kinds import Catalog, Resource
from moorage.embedded.version import GIT_VERSION, MAJOR, MINOR

_DISCOVERY_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_SCALE = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
# Subresources whose kind is not their parent's, and the verbs of those that are not read and written like objects.
_KINDS = {
    "token": {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"},
    "binding": {"group": "", "version": "v1", "kind": "Binding"},
    "attach": {"group": "", "version": "v1", "kind": "PodAttachOptions"},
    "exec": {"group": "", "version": "v1", "kind": "PodExecOptions"},
    "portforward": {"group": "", "version": "v1", "kind": "PodPortForwardOptions"},
    "eviction": {"group": "policy", "version": "v1", "kind": "Eviction"},
}
_VERBS = {"log": ["get"], "binding": ["create"], "eviction": ["create"], "token": ["create"], "finalize": ["update"]}
_VERBS |= {name: ["create", "get"] for name in ("attach", "exec", "portforward")}


def content_type() -> str:
    return _DISCOVERY_TYPE


def version() -> dict[str, str]:
    return {
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> dict[str, Any]:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def groups(catalog: Catalog) -> dict[str, Any]:
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, versions) for name, versions in _named_groups(catalog).items()],
    }


def group(catalog: Catalog, name: str) -> dict[str, Any] | None:
    found = _named_groups(catalog).get(name)
    return None if found is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, found)}


def _named_groups(catalog: Catalog) -> dict[str, list[str]]:
    named = {name: list(versions) for name, versions in catalog.groups().items() if name}
    return named | {name: ["v1"] for name in reviews.KINDS} | {metrics.GROUP: [metrics.VERSION]}


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    shown = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": shown, "preferredVersion": shown[0]}


def resource_list(catalog: Catalog, group_name: str, version: str) -> dict[str, Any] | None:
    """APIResourceList of one group version, None when it is not served."""
    shown: list[dict[str, Any]] = []
    for resource in catalog.groups().get(group_name, {}).get(version, []):
        shown.append(_resource(resource))
        shown += [_subresource(resource, name) for name in sorted(resource.subresources)]
    shown += [
        {"name": plural, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": []}
        for plural, kind in unserved.NAMED.get((group_name, version), ())
    ]
    if version == "v1":
        shown += [
            {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": ["create"]}
            for plural, kind, namespaced in reviews.KINDS.get(group_name, ())
        ]
    if (group_name, version) == (metrics.GROUP, metrics.VERSION):
        shown += metrics.discovered()
    if not shown:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": shown,
    }


def _resource(resource: Resource) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": resource.kind.plural,
        "singularName": resource.singular,
        "namespaced": resource.kind.namespaced,
        "kind": resource.kind.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        shown["shortNames"] = list(resource.short_names)
    if resource.categories:
        shown["categories"] = list(resource.categories)
    return shown


def _subresource(resource: Resource, name: str) -> dict[str, Any]:
    kind = _SCALE if name == "scale" else _KINDS.get(name)
    return {
        "name": f"{resource.kind.plural}/{name}",
        "singularName": "",
        "namespaced": resource.kind.namespaced,
        **(kind or {"kind": resource.kind.kind}),
        "verbs": _VERBS.get(name, ["get", "patch", "update"]),
    }


def aggregated(catalog: Catalog, *, core: bool) -> dict[str, Any]:
    """APIGroupDiscoveryList (apidiscovery.k8s.io/v2) of the core group, or of all the others."""
    items = []
    for name, versions in catalog.groups().items():
        if bool(name) != core:
            shown = {version: [*map(_aggregated, found), *_named(name, version)] for version, found in versions.items()}
            items.append(_aggregated_group(name, shown))
    if not core:
        items += [
            _aggregated_group(
                name,
                {
                    "v1": [
                        {
                            "resource": plural,
                            "responseKind": {"group": name, "version": "v1", "kind": kind},
                            "scope": "Namespaced" if namespaced else "Cluster",
                            "singularResource": kind.lower(),
                            "verbs": ["create"],
                        }
                        for plural, kind, namespaced in asked
                    ]
                },
            )
            for name, asked in reviews.KINDS.items()
        ]
        # Last, so that `pods` alone goes on meaning those of the core group.
        items.append(_aggregated_group(metrics.GROUP, {metrics.VERSION: metrics.aggregated()}))
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _named(group_name: str, version: str) -> list[dict[str, Any]]:
    """Kinds that are named and not served."""
    return [
        {
            "resource": plural,
            "responseKind": {"group": group_name, "version": version, "kind": kind},
            "scope": "Cluster",
            "singularResource": kind.lower(),
            "verbs": [],
        }
        for plural, kind in unserved.NAMED.get((group_name, version), ())
    ]


def _aggregated_group(name: str, versions: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "metadata": {"name": name} if name else {},
        "versions": [{"version": version, "resources": found, "freshness": "Current"} for version, found in versions.items()],
    }


def _aggregated(resource: Resource) -> dict[str, Any]:
    kind = {"group": resource.kind.group, "version": resource.kind.version, "kind": resource.kind.kind}
    shown: dict[str, Any] = {
        "resource": resource.kind.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.kind.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        shown["shortNames"] = list(resource.short_names)
    if resource.categories:
        shown["categories"] = list(resource.categories)
    if resource.subresources:
        shown["subresources"] = [
            {
                "subresource": name,
                "responseKind": _SCALE if name == "scale" else _KINDS.get(name, kind),
                "verbs": _VERBS.get(name, ["get", "patch", "update"]),
            }
            for name in sorted(resource.subresources)
        ]
    return shown
