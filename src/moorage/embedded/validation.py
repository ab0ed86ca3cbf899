"""Validation of the built-in kinds in Kubernetes' words: what people get wrong, and what must not change. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moorage.embedded import chain, defaults, limitranges, quota, rolechecks, webhooks
from moorage.embedded.indexes import count_indexes
from moorage.embedded.metadata import DNS_LABEL, LABEL_RULE
from moorage.embedded.selectors import from_label_selector
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

_JOB_RESTARTS = ("OnFailure", "Never")
_RESTARTS = ("Always", "OnFailure", "Never")
_JOB_CONTROLLER = "kubernetes.io/job-controller"
_JOB_UNSUPPORTED = ("backoffLimitPerIndex", "maxFailedIndexes")
_MOST_SUCCESS_RULES = 20
_IMMUTABLE = "field is immutable"
_SIMPLE_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_DATA_KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
    "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_LONGEST_DATA_KEY = 253
_HIGHEST_PRIORITY = 1_000_000_000
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_LARGEST_DATA = 2**20


def built_in(kind: str, manifest: Manifest, before: Manifest | None) -> list[Invalid]:
    """Findings about an object as it would be stored; `before` is None for a new one."""
    check = _BY_KIND.get(kind)
    return list(check(manifest, before)) if check is not None else []


def _required(path: str, message: str = "") -> Invalid:
    return Invalid(f"Required value{': ' + message if message else ''}", code="FieldValueRequired", target=path)


def _wrong(path: str, value: Any, reason: str) -> Invalid:
    shown = f'"{value}"' if isinstance(value, str) else _shown(value)
    return Invalid(f"Invalid value: {shown}: {reason}", code="FieldValueInvalid", target=path)


def _shown(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping | list) else str(value)


def _unsupported(path: str, value: Any, choices: tuple[str, ...]) -> Invalid:
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return Invalid(f'Unsupported value: "{value}": supported values: {listed}', code="FieldValueNotSupported", target=path)


def _not_negative(spec: Mapping[str, Any], names: tuple[str, ...], path: str) -> Iterator[Invalid]:
    for name in names:
        value = spec.get(name)
        if isinstance(value, int) and value < 0:
            yield _wrong(f"{path}.{name}", value, "must be greater than or equal to 0")


# Pods and pod templates.


def _pod(pod: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    if before is None:
        yield from _pod_spec(pod["spec"], "spec")
        return
    yield from _pod_update(pod["spec"], before["spec"])


def _pod_spec(spec: Mapping[str, Any], path: str, restarts: tuple[str, ...] = _RESTARTS) -> Iterator[Invalid]:
    if not spec.get("containers"):
        yield _required(f"{path}.containers")
    volumes = [volume.get("name") for volume in spec.get("volumes") or ()]
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from _volume(volume, volumes[:index], f"{path}.volumes[{index}]")
    names: list[Any] = []
    for place, index, container in defaults.containers(spec):
        yield from _container(container, place, f"{path}.{place}[{index}]", volumes, apart=spec.get("hostUsers") is False)
        if container.get("name") in names:
            yield Invalid(f'Duplicate value: "{container["name"]}"', code="FieldValueDuplicate", target=f"{path}.{place}[{index}].name")
        names.append(container.get("name"))
    restart = spec.get("restartPolicy")
    if restart is None:
        yield Invalid(
            f"Required value: valid values: {', '.join(chr(34) + choice + chr(34) for choice in restarts)}",
            code="FieldValueRequired",
            target=f"{path}.restartPolicy",
        )
    elif restart not in restarts:
        yield _unsupported(f"{path}.restartPolicy", restart, restarts)
    yield from _not_negative(spec, ("terminationGracePeriodSeconds", "activeDeadlineSeconds"), path)
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")


def _container(container: Mapping[str, Any], place: str, path: str, volumes: list[Any], *, apart: bool) -> Iterator[Invalid]:
    name = container.get("name")
    if not name:
        yield _required(f"{path}.name")
    elif not DNS_LABEL.match(name) or len(name) > 63:
        yield _wrong(f"{path}.name", name, LABEL_RULE)
    if not container.get("image"):
        yield _required(f"{path}.image")
    elif container["image"] != container["image"].strip():
        yield _wrong(f"{path}.image", container["image"], "must not have leading or trailing whitespace")
    if (mount := (container.get("securityContext") or {}).get("procMount")) not in (None, "Default"):
        if mount != "Unmasked":
            yield _unsupported(f"{path}.securityContext.procMount", mount, ("Default", "Unmasked"))
        elif not apart:
            yield _wrong(f"{path}.securityContext.procMount", mount, "`hostUsers` must be false to use `Unmasked`")
    if place == "initContainers" and container.get("restartPolicy") not in (None, "Always"):
        yield _unsupported(f"{path}.restartPolicy", container["restartPolicy"], ("Always",))
    for index, env in enumerate(container.get("env") or ()):
        if not env.get("name"):
            yield _required(f"{path}.env[{index}].name")
        if env.get("value") and env.get("valueFrom"):
            yield _wrong(f"{path}.env[{index}].valueFrom", "", "may not be specified when `value` is not empty")
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield Invalid(f'Not found: "{mount.get("name", "")}"', code="FieldValueNotFound", target=f"{path}.volumeMounts[{index}].name")
        if not mount.get("mountPath"):
            yield _required(f"{path}.volumeMounts[{index}].mountPath")
    for index, port in enumerate(container.get("ports") or ()):
        number = port.get("containerPort")
        if number is None:
            yield _required(f"{path}.ports[{index}].containerPort")
        elif not 0 < number < 65536:
            yield _wrong(f"{path}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive")
    yield from _resources(container.get("resources") or {}, f"{path}.resources")


def _resources(resources: Mapping[str, Any], path: str) -> Iterator[Invalid]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    bounds = {name: parse_quantity(amount, target=f"{path}.limits[{name}]") for name, amount in limits.items()}
    for place, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            value = parse_quantity(amount, target=f"{path}.{place}[{name}]")
            if value < 0:
                yield _wrong(f"{path}.{place}[{name}]", str(amount), "must be greater than or equal to 0")
            if "/" not in name and name not in _SIMPLE_RESOURCES and not name.startswith("hugepages-"):
                yield _wrong(f"{path}.{place}[{name}]", name, "must be a standard resource type or fully qualified")
            if "/" in name and value != value.to_integral_value():
                yield _wrong(f"{path}.{place}[{name}]", str(amount), "must be an integer")
    for name, amount in requests.items():
        asked = parse_quantity(amount, target=f"{path}.requests[{name}]")
        if name in limits and asked > bounds[name]:
            yield _wrong(f"{path}.requests", str(amount), f"must be less than or equal to {name} limit of {limits[name]}")
        if "/" in name and name not in limits:
            yield _required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        elif "/" in name and asked != bounds[name]:
            yield _wrong(f"{path}.requests", str(amount), f"must be equal to {name} limit of {limits[name]}")


def _volume(volume: Mapping[str, Any], earlier: list[Any], path: str) -> Iterator[Invalid]:
    name = volume.get("name")
    if not name:
        yield _required(f"{path}.name")
    elif not DNS_LABEL.match(name) or len(name) > 63:
        yield _wrong(f"{path}.name", name, LABEL_RULE)
    elif name in earlier:
        yield Invalid(f'Duplicate value: "{name}"', code="FieldValueDuplicate", target=f"{path}.name")
    if sum(1 for source in volume if source != "name") > 1:
        yield Invalid("Forbidden: may not specify more than 1 volume type", code="FieldValueForbidden", target=path)


def _toleration(toleration: Mapping[str, Any], path: str) -> Iterator[Invalid]:
    operator = toleration.get("operator") or "Equal"
    if operator not in ("Equal", "Exists", "Lt", "Gt"):
        yield _unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    if operator == "Exists" and toleration.get("value"):
        yield _wrong(f"{path}.operator", operator, "value must be empty when `operator` is 'Exists'")
    if not toleration.get("key") and operator != "Exists":
        yield _wrong(
            f"{path}.operator", operator, 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        )


def _pod_update(spec: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Invalid]:
    """Of a pod that exists only images, the deadline, grace after the fact and new tolerations may change."""

    def fixed(pod_spec: Mapping[str, Any]) -> dict[str, Any]:
        kept = {
            name: value
            for name, value in pod_spec.items()
            if name
            not in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers", "schedulingGates")
        }
        for place in ("containers", "initContainers"):
            if place in kept:
                kept[place] = [{n: v for n, v in container.items() if n != "image"} for container in kept[place]]
        return kept

    if fixed(spec) != fixed(before):
        yield Invalid(
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
            "(allow it to be set to 1 if it was previously negative)",
            code="FieldValueForbidden",
            target="spec",
        )
    if any(toleration not in (spec.get("tolerations") or ()) for toleration in before.get("tolerations") or ()):
        yield Invalid(
            "Forbidden: existing toleration can not be modified except its tolerationSeconds",
            code="FieldValueForbidden",
            target="spec.tolerations",
        )


# Workloads.


def _selects_template(spec: Mapping[str, Any]) -> Iterator[Invalid]:
    selector = spec.get("selector")
    if not selector:
        yield _required("spec.selector")
        return
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not all(term.matches(labels) for term in from_label_selector(selector)):
        shown = "{" + ",".join(f'"{key}":"{value}"' for key, value in labels.items()) + "}"
        yield Invalid(
            f"Invalid value: {shown}: `selector` does not match template `labels`",
            code="FieldValueInvalid",
            target="spec.template.metadata.labels",
        )


def _deployment(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    yield from _selects_template(spec)
    yield from _not_negative(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), "spec")
    yield from _pod_spec(spec["template"]["spec"], "spec.template.spec", ("Always",))
    kind = (spec.get("strategy") or {}).get("type", "RollingUpdate")
    if kind not in ("Recreate", "RollingUpdate"):
        yield _unsupported("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))
    if kind == "Recreate" and spec["strategy"].get("rollingUpdate"):
        yield Invalid(
            "Forbidden: may not be specified when strategy `type` is 'Recreate'",
            code="FieldValueForbidden",
            target="spec.strategy.rollingUpdate",
        )
    if before is not None and before["spec"].get("selector") != spec.get("selector"):
        yield _wrong("spec.selector", spec.get("selector"), _IMMUTABLE)


def _replica_set(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    yield from _selects_template(spec)
    yield from _not_negative(spec, ("replicas", "minReadySeconds"), "spec")
    yield from _pod_spec(spec["template"]["spec"], "spec.template.spec", ("Always",))
    if before is not None and before["spec"].get("selector") != spec.get("selector"):
        yield _wrong("spec.selector", spec.get("selector"), _IMMUTABLE)


def _stateful_set(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    yield from _selects_template(spec)
    yield from _not_negative(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), "spec")
    yield from _not_negative(spec.get("ordinals") or {}, ("start",), "spec.ordinals")
    # The claims' volumes are put in by the controller, so that the template may mount what it does not declare.
    template = spec["template"]["spec"]
    claims = spec.get("volumeClaimTemplates") or []
    names = [(claim.get("metadata") or {}).get("name") for claim in claims]
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names if name]
    declared = [volume for volume in template.get("volumes") or () if volume.get("name") not in names]
    yield from _pod_spec({**template, "volumes": [*volumes, *declared]}, "spec.template.spec", ("Always",))
    for index, claim in enumerate(claims):
        for found in _claim(claim, None):
            yield Invalid(found.message, code=found.code, target=f"spec.volumeClaimTemplates[{index}].{found.target}")
    if spec.get("podManagementPolicy") not in ("OrderedReady", "Parallel"):
        yield _wrong("spec.podManagementPolicy", spec.get("podManagementPolicy"), "must be 'OrderedReady' or 'Parallel'")
    kind, rolling = spec["updateStrategy"].get("type"), spec["updateStrategy"].get("rollingUpdate")
    if kind not in ("RollingUpdate", "OnDelete"):
        yield _wrong("spec.updateStrategy", spec["updateStrategy"], "must be 'RollingUpdate' or 'OnDelete'")
    elif kind == "OnDelete" and rolling is not None:
        shown = json.dumps(
            {"Partition": rolling.get("partition", 0), "MaxUnavailable": rolling.get("maxUnavailable")}, separators=(",", ":")
        )
        words = f"Invalid value: {shown}: only allowed for updateStrategy 'RollingUpdate'"
        yield Invalid(words, code="FieldValueInvalid", target="spec.updateStrategy.rollingUpdate")
    elif rolling is not None:
        yield from _not_negative(rolling, ("partition",), "spec.updateStrategy.rollingUpdate")
        yield from _share(rolling, "maxUnavailable", "spec.updateStrategy.rollingUpdate")
        if rolling.get("maxUnavailable") in (0, "0%"):
            yield _wrong("spec.updateStrategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], "cannot be 0")
    for name, policy in spec["persistentVolumeClaimRetentionPolicy"].items():
        if policy not in ("Retain", "Delete"):
            yield _unsupported(f"spec.persistentVolumeClaimRetentionPolicy.{name}", policy, ("Delete", "Retain"))
    for name in ("selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy") if before is not None else ():
        if before is not None and before["spec"].get(name) != spec.get(name):
            yield _wrong(f"spec.{name}", spec.get(name), _IMMUTABLE)


def _daemon_set(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    yield from _selects_template(spec)
    yield from _not_negative(spec, ("minReadySeconds", "revisionHistoryLimit"), "spec")
    yield from _pod_spec(spec["template"]["spec"], "spec.template.spec", ("Always",))
    kind = spec["updateStrategy"].get("type")
    if kind not in ("RollingUpdate", "OnDelete"):
        yield _unsupported("spec.updateStrategy.type", kind, ("OnDelete", "RollingUpdate"))
    if kind == "RollingUpdate":
        rolling, path = spec["updateStrategy"]["rollingUpdate"], "spec.updateStrategy.rollingUpdate"
        for name in ("maxUnavailable", "maxSurge"):
            yield from _share(rolling, name, path)
        unavailable, surge = (rolling.get(name) not in (None, 0, "0%") for name in ("maxUnavailable", "maxSurge"))
        if unavailable and surge:
            yield _wrong(f"{path}.maxSurge", rolling["maxSurge"], "may not be set when maxUnavailable is non-zero")
        elif not unavailable and not surge:
            yield _required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")
    if before is not None and before["spec"].get("selector") != spec.get("selector"):
        yield _wrong("spec.selector", spec.get("selector"), _IMMUTABLE)


def _share(spec: Mapping[str, Any], name: str, path: str) -> Iterator[Invalid]:
    """A number of pods or a percentage of them."""
    value = spec.get(name)
    if isinstance(value, str) and not re.fullmatch("[0-9]+%", value):
        rule = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
        yield _wrong(f"{path}.{name}", value, rule)
    elif isinstance(value, str) and int(value[:-1]) > 100:
        yield _wrong(f"{path}.{name}", value, "must not be greater than 100%")
    elif isinstance(value, int) and value < 0:
        yield _wrong(f"{path}.{name}", value, "must be greater than or equal to 0")


def _controller_revision(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    if not isinstance(manifest.get("data"), Mapping):
        yield _required("data", "data is mandatory")
    if manifest.get("revision", 0) < 0:
        yield _wrong("revision", manifest["revision"], "must be greater than or equal to 0")
    if before is not None and before.get("data") != manifest.get("data"):
        yield _wrong("data", manifest.get("data"), _IMMUTABLE)


def _disruption_budget(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield _wrong("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for name in ("minAvailable", "maxUnavailable"):
        yield from _share(spec, name, "spec")
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy not in (None, "AlwaysAllow", "IfHealthyBudget"):
        yield _unsupported("spec.unhealthyPodEvictionPolicy", policy, ("AlwaysAllow", "IfHealthyBudget"))
    try:
        from_label_selector(spec.get("selector"))
    except Invalid as error:
        yield _wrong("spec.selector", spec["selector"], error.message)


def _job(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    yield from _not_negative(
        spec,
        ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimitPerIndex"),
        "spec",
    )
    yield from _pod_spec(spec["template"]["spec"], "spec.template.spec", _JOB_RESTARTS)
    if spec.get("completionMode") not in ("NonIndexed", "Indexed"):
        yield _unsupported("spec.completionMode", spec.get("completionMode"), ("Indexed", "NonIndexed"))
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        yield _required("spec.completions", "when completion mode is Indexed")
    if spec.get("successPolicy") is not None:
        yield from _success_policy(spec)
    if spec.get("manualSelector"):
        yield from _selects_template(spec)
    if before is None:
        # A policy about failures that is silently ignored would end the job differently than its author decided.
        for name in _JOB_UNSUPPORTED:
            if spec.get(name) is not None:
                yield Invalid("Forbidden: not supported by the embedded cluster", code="FieldValueForbidden", target=f"spec.{name}")
        if spec.get("managedBy") not in (None, _JOB_CONTROLLER):
            yield Invalid(
                "Forbidden: another controller is not supported by the embedded cluster",
                code="FieldValueForbidden",
                target="spec.managedBy",
            )
        return
    for name in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        if before["spec"].get(name) != spec.get(name):
            yield _wrong(f"spec.{name}", spec.get(name), _IMMUTABLE)
    if before["spec"].get("completions") != spec.get("completions") and not _elastic(before["spec"], spec):
        yield _wrong("spec.completions", spec.get("completions"), _IMMUTABLE)
    if before["spec"].get("template") != spec.get("template") and not _may_change_template(before, spec):
        yield _wrong("spec.template", spec.get("template"), _IMMUTABLE)


def _success_policy(spec: Mapping[str, Any]) -> Iterator[Invalid]:
    path, completions = "spec.successPolicy", int(spec.get("completions") or 0)
    if spec.get("completionMode") != "Indexed":
        yield _wrong(path, spec["successPolicy"], "requires indexed completion mode")
        return
    rules = spec["successPolicy"].get("rules") or []
    if not rules:
        yield _required(f"{path}.rules", "at least one rules must be specified when the successPolicy is specified")
    if len(rules) > _MOST_SUCCESS_RULES:
        yield Invalid(
            f"Too many: {len(rules)}: must have at most {_MOST_SUCCESS_RULES} items", code="FieldValueTooMany", target=f"{path}.rules"
        )
    for index, rule in enumerate(rules):
        yield from _success_rule(rule, f"{path}.rules[{index}]", completions)


def _success_rule(rule: Mapping[str, Any], path: str, completions: int) -> Iterator[Invalid]:
    indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
    if indexes is None and count is None:
        yield _required(path, "at least one of succeededCount or succeededIndexes must be specified")
    total = 0
    if indexes is not None:
        try:
            total = count_indexes(indexes, completions)
        except ValueError as error:
            yield _wrong(f"{path}.succeededIndexes", indexes, f"error parsing succeededIndexes: {error}")
    if count is not None:
        yield from _not_negative(rule, ("succeededCount",), path)
        if count > completions:
            yield _wrong(
                f"{path}.succeededCount", count, f"must be less than or equal to {completions} (the number of specified completions)"
            )
        if indexes is not None and count > total:
            words = f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            yield _wrong(f"{path}.succeededCount", count, words)


def _elastic(before: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Indexed jobs may grow and shrink when parallelism goes along."""
    return spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")


def _may_change_template(before: Manifest, spec: Mapping[str, Any]) -> bool:
    """The scheduling directives of a suspended job that never started may change."""
    started = (before.get("status") or {}).get("startTime")
    if not before["spec"].get("suspend") or started:
        return False
    scheduling = ("nodeSelector", "tolerations", "affinity", "schedulingGates", "nodeName")

    def fixed(template: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in template["spec"].items() if name not in scheduling}

    return fixed(before["spec"]["template"]) == fixed(spec["template"])


# The rest.


def _service(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec.get("type") not in kinds:
        yield _unsupported("spec.type", spec.get("type"), kinds)
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        yield _required("spec.ports")
    names: list[str] = []
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            yield _required(f"{path}.name")
        if port.get("name") and port["name"] in names:
            yield Invalid(f'Duplicate value: "{port["name"]}"', code="FieldValueDuplicate", target=f"{path}.name")
        names.append(port.get("name", ""))
        number = port.get("port")
        if not isinstance(number, int) or not 0 < number < 65536:
            yield _wrong(f"{path}.port", number or 0, "must be between 1 and 65535, inclusive")
    if before is not None and before["spec"].get("type") != "ExternalName" and spec.get("type") != "ExternalName":
        old, new = before["spec"].get("clusterIP"), spec.get("clusterIP")
        if old and old != new:
            yield _wrong("spec.clusterIPs[0]", new, "may not change once set")


def _claim(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    if before is None:
        if not spec.get("accessModes"):
            yield _required("spec.accessModes", "at least 1 access mode is required")
        if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
            yield _required("spec.resources[storage]")
        return

    def fixed(claim: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in claim.items() if name not in ("resources", "volumeAttributesClassName")}
        if not before["spec"].get("volumeName"):
            kept.pop("volumeName", None)
        return kept

    if fixed(spec) != fixed(before["spec"]):
        yield Invalid(
            "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            code="FieldValueForbidden",
            target="spec",
        )


def _persistent_volume(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    spec = manifest["spec"]
    if not spec.get("accessModes"):
        yield _required("spec.accessModes")
    if not (spec.get("capacity") or {}).get("storage"):
        yield _required("spec.capacity")


def _data(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    """A ConfigMap's or Secret's content."""
    size = 0
    for place in ("data", "binaryData"):
        for key, value in (manifest.get(place) or {}).items():
            if not _DATA_KEY.fullmatch(key):
                yield _wrong(f"{place}[{key}]", key, _DATA_KEY_RULE)
            elif len(key) > _LONGEST_DATA_KEY:
                yield _wrong(f"{place}[{key}]", key, f"must be no more than {_LONGEST_DATA_KEY} characters")
            elif key == "." or key.startswith(".."):
                rule = f"must not be '{key}'" if key in (".", "..") else "must not start with '..'"
                yield _wrong(f"{place}[{key}]", key, rule)
            encoded = place == "binaryData" or manifest.get("kind") == "Secret"
            size += len(value) * 3 // 4 - value.count("=", -2) if encoded else len(value.encode())
    if size > _LARGEST_DATA:
        target = "data" if manifest.get("kind") == "Secret" else "[]"
        yield Invalid(f"Too long: may not be more than {_LARGEST_DATA} bytes", code="FieldValueTooLong", target=target)
    if before is None:
        return
    if before.get("type") != manifest.get("type"):
        yield _wrong("type", manifest.get("type"), _IMMUTABLE)
    if before.get("immutable"):
        for name in ("data", "binaryData", "immutable"):
            if before.get(name) != manifest.get(name):
                yield Invalid("Forbidden: field is immutable when `immutable` is set", code="FieldValueForbidden", target=name)


def _priority_class(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    name, value = manifest["metadata"]["name"], manifest.get("value", 0)
    if name.startswith("system-"):
        if _SYSTEM_PRIORITIES.get(name) != value or manifest.get("globalDefault"):
            words = f"priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
            yield Invalid(f"Forbidden: {words}", code="FieldValueForbidden", target="metadata.name")
    elif value > _HIGHEST_PRIORITY:
        words = f"Forbidden: maximum allowed value of a user defined priority is {_HIGHEST_PRIORITY}"
        yield Invalid(words, code="FieldValueForbidden", target="value")
    if manifest.get("preemptionPolicy") not in (None, "PreemptLowerPriority", "Never"):
        yield _unsupported("preemptionPolicy", manifest["preemptionPolicy"], ("Never", "PreemptLowerPriority"))
    if before is not None and before.get("value") != manifest.get("value"):
        yield Invalid("Forbidden: may not be changed in an update.", code="FieldValueForbidden", target="value")


def _storage_class(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    if not manifest.get("provisioner"):
        yield _required("provisioner")


_BY_KIND: Mapping[str, Callable[[Manifest, Manifest | None], Iterator[Invalid]]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "ControllerRevision": _controller_revision,
    "PodDisruptionBudget": _disruption_budget,
    "Job": _job,
    "Service": _service,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _persistent_volume,
    "Secret": _data,
    "ConfigMap": _data,
    "Namespace": lambda manifest, before: iter(chain.invalid_labels(manifest)),
    "ResourceQuota": lambda manifest, before: iter(quota.invalid_fields(manifest)),
    "LimitRange": lambda manifest, before: iter(limitranges.invalid_fields(manifest)),
    "MutatingWebhookConfiguration": lambda manifest, before: webhooks.invalid_fields(manifest),
    "ValidatingWebhookConfiguration": lambda manifest, before: webhooks.invalid_fields(manifest),
    "PriorityClass": _priority_class,
    "StorageClass": _storage_class,
    "Role": rolechecks.role,
    "ClusterRole": rolechecks.role,
    "RoleBinding": rolechecks.binding,
    "ClusterRoleBinding": rolechecks.binding,
}
