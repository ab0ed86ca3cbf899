"""The Pod Security Standards `privileged`, `baseline` and `restricted`: what a pod violates, in the words of Kubernetes' own admission plugin. Pure.

Each check is named and ordered as in k8s.io/pod-security-admission/policy, and takes the minor version whose rules are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moorage.embedded.defaults import containers
from moorage.specs.manifest import Manifest

LEVELS = ("privileged", "baseline", "restricted")


@dataclass(frozen=True, slots=True)
class Violation:
    """`reason` alone names it, `reason (detail)` tells it to whoever wrote the pod."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


Spec = Mapping[str, Any]
Check = Callable[[Manifest, int], Violation | None]


def violations(pod: Manifest, level: str, minor: int) -> Sequence[Violation]:
    """What a pod (or a template: `metadata` and `spec`) violates at a level, by the rules of Kubernetes 1.`minor`."""
    chosen: Iterable[Check] = ()
    if level == "baseline":
        chosen = _BASELINE
    elif level == "restricted":
        overridden = {_host_path, *([_capabilities] if minor >= 22 else []), *([_seccomp] if minor >= 19 else [])}
        chosen = [*(check for check in _BASELINE if check not in overridden), *_RESTRICTED]
    return [found for check in chosen if (found := check(pod, minor)) is not None]


def _spec(pod: Manifest) -> Spec:
    return pod.get("spec") or {}


def _of_pod(pod: Manifest) -> Spec:
    return _spec(pod).get("securityContext") or {}


def _each(pod: Manifest) -> list[tuple[str, Spec]]:
    """Every container's name and security context."""
    order = ("initContainers", "containers", "ephemeralContainers")
    found = [(place, container) for place, _, container in containers(_spec(pod))]
    return [(str(c.get("name")), c.get("securityContext") or {}) for place in order for at, c in found if at == place]


def _windows(pod: Manifest) -> bool:
    return (_spec(pod).get("os") or {}).get("name") == "windows"


def _apart(pod: Manifest) -> bool:
    """A pod in a user namespace of its own may be root there."""
    return _spec(pod).get("hostUsers") is False


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _count(names: Sequence[str], singular: str = "container") -> str:
    return f"{singular if len(names) == 1 else singular + 's'} {_quoted(names)}"


def _setters(of_pod: bool, bad: Sequence[str]) -> str:
    return " and ".join([*(["pod"] if of_pod else []), *([_count(bad)] if bad else [])])


def _violated(reason: str, bad: Sequence[str], words: str) -> Violation | None:
    return Violation(reason, f"{_count(bad)} {words}") if bad else None


# Baseline.


def _app_armor(pod: Manifest, minor: int) -> Violation | None:
    def wrong(context: Spec) -> str | None:
        profile = context.get("appArmorProfile")
        return None if profile is None or profile.get("type") in ("RuntimeDefault", "Localhost") else str(profile.get("type", ""))

    own = wrong(_of_pod(pod))
    bad = {name: value for name, context in _each(pod) if (value := wrong(context)) is not None}
    values = sorted({*bad.values(), *([own] if own is not None else [])})
    setters = [one for one in (_setters(own is not None, list(bad)),) if one]
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    forbidden = sorted(
        f'{key}="{value}"'
        for key, value in annotations.items()
        if key.startswith("container.apparmor.security.beta.kubernetes.io/")
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    )
    if forbidden:
        setters.append("annotation" if len(forbidden) == 1 else "annotations")
    values += forbidden
    if not setters:
        return None
    plural = "profile" if len(values) == 1 else "profiles"
    return Violation(f"forbidden AppArmor {plural}", f"{' and '.join(setters)} must not set AppArmor profile type to {_quoted(values)}")


_DEFAULT_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)


def _added(context: Spec) -> list[str]:
    return list((context.get("capabilities") or {}).get("add") or ())


def _capabilities(pod: Manifest, minor: int) -> Violation | None:
    bad = [name for name, context in _each(pod) if set(_added(context)) - _DEFAULT_CAPABILITIES]
    wrong = sorted({each for _, context in _each(pod) for each in _added(context)} - _DEFAULT_CAPABILITIES)
    return _violated("non-default capabilities", bad, f"must not include {_quoted(wrong)} in securityContext.capabilities.add")


def _host_namespaces(pod: Manifest, minor: int) -> Violation | None:
    found = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if _spec(pod).get(name)]
    return Violation("host namespaces", ", ".join(found)) if found else None


def _host_path(pod: Manifest, minor: int) -> Violation | None:
    found = [str(volume.get("name")) for volume in _spec(pod).get("volumes") or () if volume.get("hostPath") is not None]
    return Violation("hostPath volumes", _count(found, "volume")) if found else None


def _host_ports(pod: Manifest, minor: int) -> Violation | None:
    used = {
        str(container.get("name")): [str(port["hostPort"]) for port in container.get("ports") or () if port.get("hostPort")]
        for _, _, container in containers(_spec(pod))
    }
    bad = [name for name, ports in used.items() if ports]
    ports = sorted({port for ports in used.values() for port in ports})
    words = f"{'uses' if len(bad) == 1 else 'use'} {'hostPort' if len(ports) == 1 else 'hostPorts'} {', '.join(ports)}"
    return _violated("hostPort", bad, words)


def _host_probes(pod: Manifest, minor: int) -> Violation | None:
    if minor < 34:
        return None
    used: dict[str, set[str]] = {}
    for _, _, container in containers(_spec(pod)):
        lifecycle = container.get("lifecycle") or {}
        actions = [container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
        actions += [lifecycle.get("postStart"), lifecycle.get("preStop")]
        hosts = {((action or {}).get(kind) or {}).get("host") for action in actions for kind in ("httpGet", "tcpSocket")}
        if found := {str(host) for host in hosts if host}:
            used[str(container.get("name"))] = found
    named = sorted({host for hosts in used.values() for host in hosts})
    words = f"{'uses' if len(used) == 1 else 'use'} probe or lifecycle host{'' if len(named) == 1 else 's'} {_quoted(named)}"
    return _violated("probe or lifecycle host", sorted(used), words)


def _privileged(pod: Manifest, minor: int) -> Violation | None:
    bad = [name for name, context in _each(pod) if context.get("privileged")]
    return _violated("privileged", bad, "must not set securityContext.privileged=true")


def _proc_mount(pod: Manifest, minor: int) -> Violation | None:
    if minor >= 35 and _apart(pod):
        return None
    found = {name: context["procMount"] for name, context in _each(pod) if context.get("procMount") not in (None, "Default")}
    return _violated("procMount", list(found), f"must not set securityContext.procMount to {_quoted(sorted(set(found.values())))}")


def _se_linux(pod: Manifest, minor: int) -> Violation | None:
    allowed = {"", "container_t", "container_init_t", "container_kvm_t", *(["container_engine_t"] if minor >= 31 else [])}

    def wrong(context: Spec) -> bool:
        options = context.get("seLinuxOptions") or {}
        return options.get("type", "") not in allowed or bool(options.get("user")) or bool(options.get("role"))

    own = wrong(_of_pod(pod))
    bad = [name for name, context in _each(pod) if wrong(context)]
    if not own and not bad:
        return None
    options = [context.get("seLinuxOptions") or {} for context in (_of_pod(pod), *(context for _, context in _each(pod)))]
    types = sorted({one.get("type", "") for one in options} - allowed)
    words = [f"type{'' if len(types) == 1 else 's'} {_quoted(types)}"] if types else []
    words += [f"{name} may not be set" for name in ("user", "role") if any(one.get(name) for one in options)]
    return Violation("seLinuxOptions", f"{_setters(own, bad)} set forbidden securityContext.seLinuxOptions: {'; '.join(words)}")


def _seccomp_type(context: Spec) -> str | None:
    profile = context.get("seccompProfile")
    return None if profile is None else str(profile.get("type", ""))


def _seccomp(pod: Manifest, minor: int) -> Violation | None:
    if minor < 19:
        return _seccomp_annotations(pod)
    allowed = (None, "RuntimeDefault", "Localhost")
    own = _seccomp_type(_of_pod(pod))
    bad = {name: str(_seccomp_type(context)) for name, context in _each(pod) if _seccomp_type(context) not in allowed}
    if own in allowed and not bad:
        return None
    values = sorted({*bad.values(), *([str(own)] if own not in allowed else [])})
    words = f"must not set securityContext.seccompProfile.type to {_quoted(values)}"
    return Violation("seccompProfile", f"{_setters(own not in allowed, list(bad))} {words}")


def _seccomp_annotations(pod: Manifest) -> Violation | None:
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    names = ["seccomp.security.alpha.kubernetes.io/pod"]
    names += [f"container.seccomp.security.alpha.kubernetes.io/{name}" for name, _ in _each(pod)]
    found = sorted(
        f'{name}="{annotations[name]}"'
        for name in names
        if name in annotations
        and annotations[name] not in ("runtime/default", "docker/default")
        and not annotations[name].startswith("localhost/")
    )
    return Violation("seccompProfile", f"forbidden annotation{'' if len(found) == 1 else 's'} {', '.join(found)}") if found else None


_SYSCTLS = {
    0: ("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start"),
    27: ("net.ipv4.ip_local_reserved_ports",),
    29: ("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
    32: ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
    37: ("net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat"),
}  # fmt: skip


def _sysctls(pod: Manifest, minor: int) -> Violation | None:
    allowed = {name for since, names in _SYSCTLS.items() if minor >= since for name in names}
    found = [str(one.get("name")) for one in _of_pod(pod).get("sysctls") or () if one.get("name") not in allowed]
    return Violation("forbidden sysctls", ", ".join(found)) if found else None


def _host_process(pod: Manifest, minor: int) -> Violation | None:
    def wrong(context: Spec) -> bool:
        return bool((context.get("windowsOptions") or {}).get("hostProcess"))

    own, bad = wrong(_of_pod(pod)), [name for name, context in _each(pod) if wrong(context)]
    if not own and not bad:
        return None
    return Violation("hostProcess", f"{_setters(own, bad)} must not set securityContext.windowsOptions.hostProcess=true")


# Restricted.


def _escalation(pod: Manifest, minor: int) -> Violation | None:
    if minor >= 25 and _windows(pod):
        return None
    bad = [name for name, context in _each(pod) if context.get("allowPrivilegeEscalation") is not False]
    return _violated("allowPrivilegeEscalation != false", bad, "must set securityContext.allowPrivilegeEscalation=false")


def _dropped(pod: Manifest, minor: int) -> Violation | None:
    if minor < 22 or (minor >= 25 and _windows(pod)):
        return None
    without = [name for name, context in _each(pod) if "ALL" not in ((context.get("capabilities") or {}).get("drop") or ())]
    adding = [name for name, context in _each(pod) if set(_added(context)) - {"NET_BIND_SERVICE"}]
    added = sorted({each for _, context in _each(pod) for each in _added(context)} - {"NET_BIND_SERVICE"})
    words = [f'{_count(without)} must set securityContext.capabilities.drop=["ALL"]'] if without else []
    if adding:
        words.append(f"{_count(adding)} must not include {_quoted(added)} in securityContext.capabilities.add")
    return Violation("unrestricted capabilities", "; ".join(words)) if words else None


_VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"})


def _volumes(pod: Manifest, minor: int) -> Violation | None:
    bad = [volume for volume in _spec(pod).get("volumes") or () if not _VOLUMES & set(volume)]
    if not bad:
        return None
    types = sorted({name for volume in bad for name in volume if name != "name"})
    uses = f"{'uses' if len(bad) == 1 else 'use'} restricted volume type{'' if len(types) == 1 else 's'}"
    return Violation("restricted volume types", f"{_count([str(volume.get('name')) for volume in bad], 'volume')} {uses} {_quoted(types)}")


def _non_root(pod: Manifest, minor: int) -> Violation | None:
    if minor >= 35 and _apart(pod):
        return None
    own = _of_pod(pod).get("runAsNonRoot")
    bad = [name for name, context in _each(pod) if context.get("runAsNonRoot") is False]
    if own is False or bad:
        return Violation("runAsNonRoot != true", f"{_setters(own is False, bad)} must not set securityContext.runAsNonRoot=false")
    silent = [name for name, context in _each(pod) if context.get("runAsNonRoot") is None and not own]
    return Violation("runAsNonRoot != true", f"pod or {_count(silent)} must set securityContext.runAsNonRoot=true") if silent else None


def _run_as_user(pod: Manifest, minor: int) -> Violation | None:
    if minor < 23 or (minor >= 35 and _apart(pod)):
        return None
    own = _of_pod(pod).get("runAsUser") == 0
    bad = [name for name, context in _each(pod) if context.get("runAsUser") == 0]
    return Violation("runAsUser=0", f"{_setters(own, bad)} must not set runAsUser=0") if own or bad else None


def _seccomp_set(pod: Manifest, minor: int) -> Violation | None:
    if minor < 19 or (minor >= 25 and _windows(pod)):
        return None
    if (explicit := _seccomp(pod, minor)) is not None:
        return explicit
    silent = [name for name, context in _each(pod) if _seccomp_type(context) is None and _seccomp_type(_of_pod(pod)) is None]
    words = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", f"pod or {_count(silent)} {words}") if silent else None


# In the order of Kubernetes' names of the checks.
_BASELINE: Sequence[Check] = (
    _app_armor, _capabilities, _host_namespaces, _host_path, _host_ports, _host_probes, _privileged, _proc_mount, _se_linux, _seccomp, _sysctls,
    _host_process,
)  # fmt: skip
_RESTRICTED: Sequence[Check] = (_escalation, _dropped, _volumes, _non_root, _run_as_user, _seccomp_set)
