"""Makes src/moorage/embedded/fields.json from Kubernetes' published protocol buffer files: the fields, types and merge rules of the kinds we serve.

    python scripts/kubernetes_fields.py API_CHECKOUT APIMACHINERY_CHECKOUT > src/moorage/embedded/fields.json

The checkouts are git directories of kubernetes/api and kubernetes/apimachinery (Apache-2.0) at the version that embedded/version.py names.
A field is [number, name, type, rules]; type is a scalar, `message`, `[]type` or `{}type`, rules are `inline`, `silent` (zero is left out), `atomic`, `set`, `map=KEY,KEY`, `merge=KEY`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

GROUPS = {"": "core", "apps": "apps", "batch": "batch", "discovery.k8s.io": "discovery", "events.k8s.io": "events", "coordination.k8s.io": "coordination",
          "storage.k8s.io": "storage", "scheduling.k8s.io": "scheduling", "rbac.authorization.k8s.io": "rbac", "networking.k8s.io": "networking",
          "policy": "policy", "authentication.k8s.io": "authentication", "authorization.k8s.io": "authorization", "autoscaling": "autoscaling",
          "admissionregistration.k8s.io": "admissionregistration"}  # fmt: skip
KINDS = {
    "": "Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod ResourceQuota Secret Service ServiceAccount",
    "apps": "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
    "batch": "CronJob Job",
    "discovery.k8s.io": "EndpointSlice",
    "events.k8s.io": "Event",
    "coordination.k8s.io": "Lease",
    "storage.k8s.io": "StorageClass",
    "scheduling.k8s.io": "PriorityClass",
    "rbac.authorization.k8s.io": "ClusterRole ClusterRoleBinding Role RoleBinding",
    "networking.k8s.io": "Ingress IngressClass NetworkPolicy",
    "policy": "Eviction PodDisruptionBudget",
    "authentication.k8s.io": "TokenRequest SelfSubjectReview",
    "authorization.k8s.io": "SelfSubjectAccessReview SelfSubjectRulesReview",
    "autoscaling": "Scale",
    "admissionregistration.k8s.io": "MutatingWebhookConfiguration ValidatingWebhookConfiguration",
}
# Go embeds these, so that JSON has their fields in the parent; the .proto files do not say so.
INLINE = {
    "localObjectReference",
    "volumeSource",
    "handler",
    "persistentVolumeSource",
    "ephemeralContainerCommon",
    "ingressRuleValue",
    "rule",
}
# Where the .proto files have another name than JSON.
JSON_NAMES = {"uID": "uid", "Webhooks": "webhooks"}
FIELD = re.compile(r"^\s*(optional|repeated)?\s*(map<string, (?P<value>[\w.]+)>|(?P<type>[\w.]+)) (?P<name>\w+) = (?P<number>\d+);")
MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
STRUCT = re.compile(r"^type (\w+) struct \{(.*?)^\}", re.MULTILINE | re.DOTALL)
# Numbers, booleans, lists and maps that are no pointers: Go leaves their zero out of JSON, while protocol buffers have that of numbers.
SILENT = re.compile(
    r'^\s*\w+\s+(?:bool|u?int(?:32|64)?|\[\][\w.*]+|map\[string\][\w.\[\]]+|ResourceList)\s+`json:"(\w+),omitempty', re.MULTILINE
)
PACKAGE = re.compile(r"^package ([\w.]+);", re.MULTILINE)


def show(repository: str, path: str) -> str:
    return subprocess.run(["git", "-C", repository, "show", f"HEAD:{path}"], check=True, capture_output=True, text=True).stdout


def short(full: str) -> str:
    return re.sub(r"^k8s\.io\.(api|apimachinery\.pkg|apimachinery\.pkg\.apis)\.", "", full.lstrip(".")).removeprefix("apis.")


def silent(repository: str, folder: str) -> set[tuple[str, str]]:
    """(struct, field) of a package whose zero JSON does not have."""
    return {(found[1], name) for found in STRUCT.finditer(show(repository, f"{folder}/types.go")) for name in SILENT.findall(found[2])}


def rules(comment: str, name: str, type_: str) -> str:
    if name in INLINE and not type_.startswith(("[]", "{}")):
        return "inline"
    marks = dict(re.findall(r"//\s*\+(listType|patchMergeKey|mapType|structType)=(\S+)", comment))
    keys = re.findall(r"//\s*\+listMapKey=(\S+)", comment)
    found = []
    if marks.get("listType") == "map":
        found.append("map=" + ",".join(keys))
    if marks.get("listType") == "set":
        found.append("set")
    if "atomic" in (marks.get("mapType"), marks.get("structType")):
        found.append("atomic")
    if "patchMergeKey" in marks and "+patchStrategy=" in comment and "merge" in comment:
        found.append("merge=" + marks["patchMergeKey"])
    return " ".join(found)


def main() -> None:
    api, machinery = sys.argv[1:3]
    sources = [(show(api, f"{folder}/v1/generated.proto"), silent(api, f"{folder}/v1")) for folder in GROUPS.values()]
    sources.append((show(machinery, "pkg/apis/meta/v1/generated.proto"), silent(machinery, "pkg/apis/meta/v1")))
    sources += [(show(machinery, f"pkg/{path}/generated.proto"), set()) for path in ("api/resource", "util/intstr", "runtime")]
    messages: dict[str, list[list[object]]] = {}
    for text, unset in sources:
        package = PACKAGE.search(text)
        assert package is not None
        home = short(package[1])
        for found in MESSAGE.finditer(text):
            fields, comment = [], ""
            for line in found[2].splitlines():
                match = FIELD.match(line)
                if not match:
                    comment = comment + line + "\n" if line.strip() else ""
                    continue
                name = JSON_NAMES.get(match["name"], match["name"])
                raw = match["value"] or match["type"]
                raw = short(raw) if raw.startswith(".k8s") else raw if raw[0].islower() else f"{home}.{raw}"
                type_ = "{}" + raw if match["value"] else "[]" + raw if match[1] == "repeated" else raw
                marks = " ".join(filter(None, (rules(comment, name, type_), "silent" if (found[1], name) in unset else "")))
                fields.append([int(match["number"]), name, type_, marks])
                comment = ""
            lead = text[: found.start()].rstrip().rsplit("\n\n", 1)[-1]
            atomic = "+structType=atomic" in lead
            messages[f"{home}.{found[1]}"] = [[0, "", "", "atomic"], *fields] if atomic else fields
    kinds = {
        f"{group}/{kind}": f"{short('k8s.io.api.' + GROUPS[group])}.v1.{kind}" for group, names in KINDS.items() for kind in names.split()
    }
    wanted, queue = {}, [*kinds.values(), "meta.v1.DeleteOptions"]
    while queue:
        name = queue.pop()
        if name in wanted or name not in messages:
            continue
        wanted[name] = messages[name]
        queue += [str(field[2]).lstrip("[]{}") for field in messages[name]]
    lines = [f" {json.dumps(name)}: {json.dumps(wanted[name], separators=(',', ':'))}" for name in sorted(wanted)]
    sys.stdout.write('{"kinds": ' + json.dumps(kinds, indent=1) + ',\n"messages": {\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
