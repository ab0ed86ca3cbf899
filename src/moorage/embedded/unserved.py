"""Kinds of Kubernetes that the embedded cluster knows of and does not serve: asking for one is answered with what to do instead (docs/limits.md)."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.errors import Invalid

_POLICIES = "write the rule as a webhook, or as validation rules of the custom resource"
_DEVICES = "ask for extended resources such as nvidia.com/gpu"

UNSERVED: Mapping[tuple[str, str], str] = {
    ("", "replicationcontrollers"): "use a Deployment",
    ("", "podtemplates"): "keep the template in a Deployment or a Job",
    ("", "componentstatuses"): "ask /readyz",
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"): "write a mutating webhook",
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"): "write a mutating webhook",
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"): _POLICIES,
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): _POLICIES,
    ("apiregistration.k8s.io", "apiservices"): "no other API server can be put behind this one",
    ("autoscaling", "horizontalpodautoscalers"): "set replicas yourself (kubectl scale)",
    ("batch", "cronjobs"): "create the Job when it is due",
    ("certificates.k8s.io", "certificatesigningrequests"): "sign certificates elsewhere and store them in a Secret",
    ("flowcontrol.apiserver.k8s.io", "flowschemas"): "requests are not queued by priority here",
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"): "requests are not queued by priority here",
    ("networking.k8s.io", "ipaddresses"): "Services get their addresses from one fixed range",
    ("networking.k8s.io", "servicecidrs"): "Services get their addresses from one fixed range",
    ("node.k8s.io", "runtimeclasses"): "containers are processes here and have one runtime",
    ("resource.k8s.io", "deviceclasses"): _DEVICES,
    ("resource.k8s.io", "resourceclaims"): _DEVICES,
    ("resource.k8s.io", "resourceclaimtemplates"): _DEVICES,
    ("resource.k8s.io", "resourceslices"): _DEVICES,
    ("storage.k8s.io", "csidrivers"): "volumes are folders of this machine, from the default storage class",
    ("storage.k8s.io", "csinodes"): "volumes are folders of this machine, from the default storage class",
    ("storage.k8s.io", "csistoragecapacities"): "volumes are folders of this machine, from the default storage class",
    ("storage.k8s.io", "volumeattachments"): "volumes are folders of this machine, and never attached",
    ("storage.k8s.io", "volumeattributesclasses"): "volumes are folders of this machine and have no attributes",
}

# Those of the table that discovery names all the same, by group and version: plural and kind, all of the cluster. Without it kubectl would ask for
# nothing and say that a CRD is missing, which no cluster of this version lacks. They have no verbs, so that `kubectl api-resources` and all who look for
# kinds to list or collect pass them by.
NAMED: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("admissionregistration.k8s.io", "v1"): (
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    ),
}


def refuse(group: str, plural: str) -> None:
    """Invalid with code NotImplemented (501) for a kind of the table; nothing for any other."""
    if (instead := UNSERVED.get((group, plural))) is not None:
        name = f"{plural}.{group}" if group else plural
        raise Invalid(f"{name} are not served by the embedded cluster (docs/limits.md): {instead}", code="NotImplemented", target=plural)
