"""A pod's volumes on the node's disk: folders made, ConfigMaps, Secrets and tokens written as the kubelet writes them (all of a change at once)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from moorage.clock import Clock, now
from moorage.embedded.node.environment import Surroundings, data_of, field_value, resource_value
from moorage.embedded.tokens import Grant
from moorage.errors import Invalid, NotFound, Unavailable
from moorage.ids import digest
from moorage.specs.manifest import Manifest

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_LIFE = timedelta(seconds=3607)
_DATA = "..data"
_MEMORY = Path("/dev/shm")  # the kernel's own, on which `medium: Memory` lies
_HOST_CHECKS = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


class TokenSource(Protocol):
    """Where a pod's ServiceAccount tokens come from (the API's TokenRequest)."""

    async def issue(self, pod: Manifest, *, audiences: Sequence[str], lifetime: timedelta) -> Grant:
        """A token of the pod's account, bound to the pod; NotFound while the account does not exist. No audiences: the API server's own."""
        ...


@dataclass(frozen=True, slots=True)
class Claims:
    """What volumes of a pod refer to besides ConfigMaps and Secrets; each answers None for what does not exist."""

    claim: Mapping[str, Manifest]
    volume: Mapping[str, Manifest]


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int


@dataclass(slots=True)
class Volumes:
    """The volumes of one pod under `folder`.

    Args:
        pod_uid: names what lies outside `folder` (memory-backed folders).
        ca: the API's certificate authority, `ca.crt` beside the token.
    """

    folder: Path
    pod_uid: str
    tokens: TokenSource
    ca: bytes = b""
    clock: Clock = now
    _granted: dict[tuple[str, str, tuple[str, ...]], tuple[Grant, datetime]] = field(default_factory=dict)

    async def provide(self, volume: Manifest, around: Surroundings, claims: Claims) -> Path:
        """Make the volume as it should be now and return where it lies. Repeating it brings changed content in.

        Raises NotFound or Unavailable while something it needs is missing, Invalid when this node has no such volumes.
        """
        place: Path = self.folder / volume["name"]
        kind = next((key for key in volume if key != "name"), "emptyDir")
        source = volume.get(kind) or {}
        match kind:
            case "emptyDir":
                return self._empty(place, volume["name"], source)
            case "hostPath":
                return _host_path(source)
            case "persistentVolumeClaim":
                return _claimed(source["claimName"], claims)
            case "ephemeral":
                return _claimed(f"{around.pod['metadata']['name']}-{volume['name']}", claims)
            case "configMap" | "secret" | "downwardAPI" | "projected":
                sources: Sequence[Manifest] = (
                    source.get("sources") or () if kind == "projected" else ({str(kind): _renamed(str(kind), source)},)
                )
                default = int(source.get("defaultMode", 0o644))
                files: dict[str, File] = {}
                for item in sources:
                    files.update(await self._projection(item, around, default))
                publish_files(place, files)
                return place
            case _:
                raise Invalid(
                    f"volume {volume['name']!r} is of type {kind}, which the embedded cluster does not have. Use emptyDir, hostPath, configMap, secret, projected, downwardAPI or a persistentVolumeClaim.",
                    target=volume["name"],
                )

    def _empty(self, place: Path, name: str, source: Manifest) -> Path:
        if source.get("medium") == "Memory" and os.access(_MEMORY, os.W_OK):
            place = _MEMORY / f"moorage-{self.pod_uid}" / name
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)
        return place

    async def _projection(self, source: Manifest, around: Surroundings, default: int) -> dict[str, File]:
        kind, detail = next(iter(source.items()))
        match kind:
            case "configMap" | "secret":
                return _data_files("ConfigMap" if kind == "configMap" else "Secret", detail, around, default)
            case "downwardAPI":
                return {item["path"]: File(_downward(item, around), int(item.get("mode", default))) for item in detail.get("items") or ()}
            case "serviceAccountToken":
                return {detail["path"]: File((await self._token(detail, around)).encode(), 0o600)}
            case _:
                raise Invalid(f"projected volume source {kind} is not supported on the embedded cluster", target=kind)

    async def _token(self, detail: Manifest, around: Surroundings) -> str:
        """The token of this projection, a new one once four fifths of its life are over."""
        pod = around.pod
        account = pod["spec"].get("serviceAccountName") or "default"
        audiences = (detail["audience"],) if detail.get("audience") else ()
        key = (account, detail["path"], audiences)
        if (known := self._granted.get(key)) and self.clock() < known[1]:
            return known[0].token
        life = timedelta(seconds=int(detail.get("expirationSeconds") or _TOKEN_LIFE.total_seconds()))
        issued = await self.tokens.issue(pod, audiences=audiences, lifetime=life)
        self._granted[key] = (issued, self.clock() + (issued.expires - self.clock()) * 0.8)
        return issued.token

    @property
    def renew_at(self) -> datetime | None:
        """When the first token has to be renewed."""
        return min((renew for _, renew in self._granted.values()), default=None)

    async def service_account(self, around: Surroundings) -> Path:
        """The volume that every container gets at SERVICE_ACCOUNT_PATH."""
        place = self.folder / "kube-api-access"
        token = await self._token({"path": "token"}, around)
        content = {"token": token.encode(), "namespace": around.pod["metadata"]["namespace"].encode(), "ca.crt": self.ca}
        publish_files(place, {name: File(data, 0o600 if name == "token" else 0o644) for name, data in content.items()})
        return place

    def remove(self) -> None:
        """Delete everything of the pod that these volumes keep; claimed and host folders are not theirs."""
        for place in (self.folder, _MEMORY / f"moorage-{self.pod_uid}"):
            if place.exists():
                shutil.rmtree(place)


def _renamed(kind: str, source: Manifest) -> Manifest:
    """A secret volume names its Secret `secretName`, everything else `name`."""
    return {**source, "name": source["secretName"]} if kind == "secret" and "secretName" in source else source


def _data_files(kind: str, detail: Manifest, around: Surroundings, default: int) -> dict[str, File]:
    optional = bool(detail.get("optional"))
    found = around.find(kind, detail["name"])
    if found is None:
        if optional:
            return {}
        raise NotFound(f'{kind.lower()} "{detail["name"]}" not found', target=detail["name"])
    data = data_of(found)
    if not detail.get("items"):
        return {key: File(value, default) for key, value in data.items()}
    files = {}
    for item in detail["items"]:
        if item["key"] in data:
            files[_inside(item["path"])] = File(data[item["key"]], int(item.get("mode", default)))
        elif not optional:
            raise NotFound(f'references non-existent {kind.lower()} key: {item["key"]} in "{detail["name"]}"', target=detail["name"])
    return files


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise Invalid(f"volume path {path!r} must be relative and must not contain '..'", target="path")
    return path


def _downward(item: Manifest, around: Surroundings) -> bytes:
    if "fieldRef" in item:
        return field_value(around.pod, item["fieldRef"]["fieldPath"]).encode()
    return resource_value(around.pod, item["resourceFieldRef"], around.allocatable).encode()


def _host_path(source: Manifest) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(exist_ok=True)
    if not path.exists():
        raise Unavailable(f"hostPath {path} does not exist on this machine", target=str(path))
    if (check := _HOST_CHECKS.get(kind.removesuffix("OrCreate"))) and not check(path.stat().st_mode):
        raise Unavailable(f"hostPath type check failed: {path} is not a {kind.removesuffix('OrCreate').lower()}", target=str(path))
    return path


def _claimed(name: str, claims: Claims) -> Path:
    claim = claims.claim.get(name)
    if claim is None:
        raise NotFound(f'persistentvolumeclaim "{name}" not found', target=name)
    volume = claims.volume.get(claim["spec"].get("volumeName") or "")
    if volume is None or (claim.get("status") or {}).get("phase") != "Bound":
        raise Unavailable(f'persistentvolumeclaim "{name}" is not bound yet', target=name)
    source = volume["spec"].get("hostPath") or volume["spec"].get("local")
    if source is None:
        raise Invalid(
            f'persistentvolume "{volume["metadata"]["name"]}" is neither hostPath nor local: the embedded cluster has no others',
            target=name,
        )
    path = Path(source["path"])
    path.mkdir(parents=True, exist_ok=True)
    return path


def publish_files(folder: Path, files: Mapping[str, File]) -> bool:
    """Make `folder` hold exactly these files; readers see all of the old or all of the new (the kubelet's AtomicWriter layout).

    Returns whether anything changed.
    """
    target = ".." + digest(*(f"{name}\0{file.mode}\0{file.content.hex()}" for name, file in sorted(files.items())), length=16)
    link = folder / _DATA
    changed = not link.is_symlink() or os.readlink(link) != target
    if changed:
        _publish(folder, files, target)
    # Also of what an agent has published that was killed before it came to this.
    _link_names(folder, {name.split("/")[0] for name in files})
    for child in folder.iterdir():
        if child.name.startswith("..") and child.name not in (target, _DATA):
            shutil.rmtree(child)
    return changed


def _publish(folder: Path, files: Mapping[str, File], target: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / target
    if fresh.exists():
        shutil.rmtree(fresh)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    fresh.mkdir(exist_ok=True)
    swap = folder / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(target)
    swap.rename(folder / _DATA)


def _link_names(folder: Path, names: Iterable[str]) -> None:
    wanted = set(names)
    for child in folder.iterdir():
        if not child.name.startswith("..") and child.name not in wanted:
            child.unlink()
    for name in wanted:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")


def usage(folder: Path) -> int:
    """Bytes of disk below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
