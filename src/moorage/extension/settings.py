"""The extension's settings, from `key=value` pairs to a checked value. The table of keys is the contract (spec "Settings").

Keys are matched without regard to case; a wrong key or combination is refused before anything in the cluster is touched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from moorage.errors import Invalid, MoorageError
from moorage.ids import is_dns_label


class RouterService(StrEnum):
    """How the router's Service is exposed; the values are Kubernetes' Service types."""

    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    CLUSTER_IP = "ClusterIP"


@dataclass(frozen=True, slots=True)
class ExtensionSettings:
    """What was asked for, checked. See `KEYS` for the meaning of each."""

    training: bool = False
    inference: bool = False
    router_service: RouterService | None = None
    allow_insecure: bool = False
    router_ha: bool = True
    node_selector: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> dict[str, str]:
        """The settings as the user gave them, under their documented keys; protected ones never come here."""
        return dict(self.given)


@dataclass(frozen=True, slots=True)
class Key:
    """One documented setting: its name, what it means, and why asking for it is refused in this version (empty: it works)."""

    name: str
    meaning: str
    refused: str = ""
    refused_when: str = "true"


_MONITORING = "comes with the monitoring issue; leave it out"
KEYS: tuple[Key, ...] = (
    Key("enableTraining", "training jobs (True/False, default False)"),
    Key("enableInference", "online endpoints (True/False, default False)"),
    Key("allowInsecureConnections", "HTTP scoring, for development (True/False, default False)"),
    Key("inferenceRouterServiceType", "how the router is exposed: loadBalancer, nodePort or clusterIP; required with inference"),
    Key("inferenceRouterHA", "3 router replicas on 3 nodes (True/False, default True)"),
    Key(
        "internalLoadBalancerProvider",
        "azure: internal load balancer, AKS only",
        "needs an AKS cluster, which this version does not recognise yet",
        "*",
    ),
    Key(
        "sslSecret",
        "Secret in azureml with cert.pem and key.pem",
        "HTTPS on the router comes with the serving issue; set allowInsecureConnections=True",
        "*",
    ),
    Key(
        "sslCname",
        "DNS name in the certificate",
        "HTTPS on the router comes with the serving issue; set allowInsecureConnections=True",
        "*",
    ),
    Key(
        "installNvidiaDevicePlugin",
        "NVIDIA device plugin (True/False, default False)",
        "third-party charts are not bundled yet; install it yourself",
    ),
    Key("installPromOp", "Prometheus operator (True/False, default True)", _MONITORING),
    Key(
        "installVolcano",
        "Volcano scheduler (True/False, default True)",
        "Volcano is not bundled yet; jobs of one node need none, leave it out",
    ),
    Key(
        "installDcgmExporter",
        "NVIDIA DCGM exporter (True/False, default False)",
        "third-party charts are not bundled yet; install it yourself",
    ),
)
PROTECTED: tuple[Key, ...] = (
    Key(
        "sslCertPemFile",
        "path of the PEM certificate",
        "HTTPS on the router comes with the serving issue; set allowInsecureConnections=True",
        "*",
    ),
    Key("sslKeyPemFile", "path of the PEM key", "HTTPS on the router comes with the serving issue; set allowInsecureConnections=True", "*"),
)
_NODE_SELECTOR = "nodeselector."
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")


def parse_settings(config: Mapping[str, str], protected: Mapping[str, str] | None = None) -> ExtensionSettings:
    """Check the settings and their combination.

    Args:
        config: `--config` pairs.
        protected: `--config-protected` pairs; only names, never values, appear in messages.

    Raises:
        Invalid: with one detail per finding, each naming the key and the remedy.
    """
    findings: list[MoorageError] = []
    values: dict[str, str] = {}
    given: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    known = {key.name.lower(): key for key in KEYS}
    for name, value in config.items():
        if name.lower().startswith(_NODE_SELECTOR):
            label = name[len(_NODE_SELECTOR) :]
            if not label or not _LABEL_VALUE.match(value):
                findings.append(Invalid(f"{name}={value} is not a node label. Use nodeSelector.KEY=VALUE.", target=name))
            node_selector[label] = value
            given[f"nodeSelector.{label}"] = value
        elif (key := known.get(name.lower())) is None:
            findings.append(_unknown(name))
        else:
            findings.extend(_refused(key, value))
            values[key.name] = value
            given[key.name] = value
    guarded = {key.name.lower(): key for key in PROTECTED}
    for name in protected or {}:
        if (key := guarded.get(name.lower())) is None:
            findings.append(_unknown(name, protected=True))
        else:
            findings.extend(_refused(key, ""))
    settings = ExtensionSettings(
        training=_flag(values, "enableTraining", False, findings),
        inference=_flag(values, "enableInference", False, findings),
        router_service=_service(values, findings),
        allow_insecure=_flag(values, "allowInsecureConnections", False, findings),
        router_ha=_flag(values, "inferenceRouterHA", True, findings),
        node_selector=node_selector,
        given=given,
    )
    findings.extend(_combination(settings, values))
    if findings:
        summary = " ".join(finding.message for finding in findings)
        raise Invalid(summary, code="InvalidExtensionSettings", target=findings[0].target, details=tuple(findings))
    return settings


def check_name(name: str) -> None:
    """An extension's name is a prefix of Kubernetes names; Invalid with the rule when it cannot be."""
    if not is_dns_label(name) or len(name) > 40:
        raise Invalid(
            f"'{name}' cannot be an extension's name: use lower-case letters, digits and '-', 40 characters at most.", target="name"
        )


def _combination(settings: ExtensionSettings, values: Mapping[str, str]) -> list[MoorageError]:
    findings: list[MoorageError] = []
    if not settings.training and not settings.inference:
        findings.append(
            Invalid(
                "Neither training nor inference is enabled. Set enableTraining=True, enableInference=True, or both.",
                target="enableTraining",
            )
        )
    if settings.inference:
        if "inferenceRouterServiceType" not in values:
            findings.append(
                Invalid(
                    "inferenceRouterServiceType is required with enableInference=True. Set it to loadBalancer, nodePort or clusterIP.",
                    target="inferenceRouterServiceType",
                )
            )
        if not settings.allow_insecure:
            findings.append(
                Invalid(
                    "HTTPS scoring needs a certificate, and HTTPS on the router comes with the serving issue. Set allowInsecureConnections=True.",
                    target="allowInsecureConnections",
                )
            )
        if settings.router_ha:
            findings.append(
                Invalid(
                    "inferenceRouterHA is True (its default), and several router replicas come with the serving issue. Set inferenceRouterHA=False.",
                    target="inferenceRouterHA",
                )
            )
    return findings


def _refused(key: Key, value: str) -> list[MoorageError]:
    if key.refused and (key.refused_when == "*" or value.lower() == key.refused_when):
        shown = f"{key.name}={value}" if value else key.name
        return [Invalid(f"{shown} is not possible in this version: {key.refused}.", target=key.name)]
    return []


def _unknown(name: str, *, protected: bool = False) -> Invalid:
    table = PROTECTED if protected else KEYS
    names = [key.name for key in table]
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1, cutoff=0.6)
    hint = f"Did you mean {next(known for known in names if known.lower() == near[0])}?" if near else f"Known are {', '.join(names)}."
    return Invalid(f"'{name}' is not a {'protected ' if protected else ''}setting of the extension. {hint}", target=name)


def _flag(values: Mapping[str, str], name: str, default: bool, findings: list[MoorageError]) -> bool:
    text = values.get(name, str(default)).lower()
    if text not in ("true", "false"):
        findings.append(Invalid(f"{name}={values[name]} is neither True nor False.", target=name))
        return default
    return text == "true"


def _service(values: Mapping[str, str], findings: list[MoorageError]) -> RouterService | None:
    text = values.get("inferenceRouterServiceType")
    if text is None:
        return None
    for service in RouterService:
        if service.value.lower() == text.lower():
            return service
    findings.append(
        Invalid(
            f"inferenceRouterServiceType={text} is unknown. Use loadBalancer, nodePort or clusterIP.", target="inferenceRouterServiceType"
        )
    )
    return None
