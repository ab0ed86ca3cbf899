"""Resolves what bodies refer to, within one transaction, to the addresses and specs that a custom resource carries.

Every failure names the field, what is missing and where it would come from; nothing is looked up later in the cluster that could be refused here.
"""

from __future__ import annotations

from collections.abc import Sequence

from moorage.errors import Invalid, NotFound
from moorage.ids import Workspace
from moorage.server import webfiles
from moorage.server.containers import foreign
from moorage.server.images.context import describe
from moorage.server.resources import curated
from moorage.specs.uris import (
    AssetReference,
    DatastorePath,
    JobOutput,
    Reference,
    RegistryReference,
    WebAddress,
    facade_path,
    fill_name,
    join,
    parse_reference,
)
from moorage.store import Resource, ResourceKey, Transaction
from moorage.wire.assets import Environment, Model, read_environment

FACADE = "/blobstore"
# Names under which a job's logs and `./outputs` can be referred to as if they were an output.
ARTIFACT_OUTPUTS = frozenset({"artifacts", "default"})


class Resolver:
    """Resolves references of one workspace within one transaction."""

    def __init__(self, tx: Transaction, workspace: Workspace) -> None:
        self._tx = tx
        self._workspace = workspace

    def environment(self, text: str, *, target: str) -> Environment:
        """What an environment reference stands for: a version of the workspace's, or a ready-made one of the registry."""
        reference = parse_reference(text, target=target)
        if isinstance(reference, RegistryReference):
            return curated.environment(self._tx, reference, target=target)
        version = self.version(text, "environments", target=target)
        name, build = version.key.parent, version.properties.get("build")
        if not build:
            return read_environment(name, version.name, version.properties, target=target)
        label, uri = f"{name}:{version.name}", str(build.get("contextUri") or "")
        if uri and isinstance(parse_reference(uri, target=target), WebAddress) and facade_path(uri, FACADE) is None:
            raise Invalid(
                f"{target}: the build context of environment '{label}' is at '{uri}', and this service fetches nothing from the web. "
                "Download it, and register a version with its local path.",
                code="UrlNotMapped",
                target=target,
            )
        address = self.address(uri, target=target, asset=f"Environment '{label}'")
        dockerfile = str(build.get("dockerfilePath") or "Dockerfile")
        return Environment(label, build=describe(self._tx, name, version.name, address, dockerfile, target=target))

    def code(self, text: str, *, target: str) -> str:
        """The blob folder of a code asset."""
        version = self.version(text, "codes", target=target)
        return self.address(str(version.properties.get("codeUri") or ""), target=target, asset=f"Code '{version.key.parent}'")

    def model(self, text: str, *, target: str) -> Model:
        """A registered model, or the files at a path used as one."""
        reference = parse_reference(text, target=target)
        if isinstance(reference, AssetReference):
            version = self.version(text, "models", target=target)
            name, number = version.key.parent, version.name
            address = self.address(str(version.properties.get("modelUri") or ""), target=target, asset=f"Model '{name}:{number}'")
        else:
            address = self.address(text, target=target)
            name, number = address.rstrip("/").rpartition("/")[2] or "model", "1"
        return Model(name, number, address, self.kind_of(address, target=target, text=text))

    def input(self, text: str, kind: str, *, target: str) -> str:
        """The address of a job's input: a data or model asset, a path, or another job's output."""
        reference = parse_reference(text, target=target)
        if isinstance(reference, AssetReference):
            is_model = kind.endswith("_model")
            type_ = reference.type or ("models" if is_model else "data")
            if type_ not in ("data", "models"):
                raise Invalid(f"{target}: '{text}' is no data or model asset. Name one of those, or a path.", target=target)
            version = self.version(text, type_, target=target)
            uri = str(version.properties.get("modelUri" if type_ == "models" else "dataUri") or "")
            address = self.address(uri, target=target, asset=f"{type_} asset '{version.key.parent}:{version.name}'")
        else:
            address = self.address(text, target=target)
        self.kind_of(address, target=target, text=text)
        return address

    def output(self, uri: str, job: str, *, target: str) -> str:
        """Where an output goes that names a place; the place need not exist."""
        reference = parse_reference(fill_name(uri, job), target=target)
        if not isinstance(reference, DatastorePath):
            raise Invalid(f"{target}: an output must go to a datastore: azureml://datastores/DATASTORE/paths/PATH.", target=target)
        return self.datastore_address(reference, target=target)

    def version(self, text: str, type_: str, *, target: str) -> Resource:
        """The asset version a reference names; without a version, the newest that is not archived."""
        reference = self._named(parse_reference(text, target=target), type_, text, target)
        inner = f"{type_}/versions"
        if reference.version is not None:
            found = self._tx.resources.find(ResourceKey(self._workspace, inner, reference.version, reference.name))
        elif reference.label in (None, "latest"):
            newest = self._tx.resources.list(self._workspace, inner, parent=reference.name, archived=False, newest_first=True, limit=1)
            found = newest[0] if newest else None
        else:
            raise Invalid(f"{target}: '{text}': the only label is @latest. Name a version, or @latest.", target=target)
        if found is None:
            raise self._unknown(reference, type_, target)
        return found

    def address(self, text: str, *, target: str, asset: str = "") -> str:
        """The `CONTAINER/PATH` of a path, a job's output or an address of our own blob facade.

        Args:
            text: the reference.
            target: the field it stands in.
            asset: the asset whose address this is, for messages; empty when the field itself holds it.
        """
        if not text:
            raise Invalid(f"{target}: {asset or 'this'} has no address of its files. Create it again.", target=target)
        reference = parse_reference(text, target=target)
        match reference:
            case DatastorePath():
                return self.datastore_address(reference, target=target)
            case JobOutput():
                return self._job_output(reference, target)
            case WebAddress(url):
                own = facade_path(url, FACADE) or webfiles.address_of(self._tx, self._workspace, url)
                if own is None:
                    raise Invalid(
                        f"{target}: '{text}' is a web address, and this service fetches nothing from the web. Let its operator map it to files "
                        "(moorage up --url-map FILE), or download it and give its local path.",
                        code="UrlNotMapped",
                        target=target,
                    )
                if foreign(own.partition("/")[0], self._workspace):
                    raise Invalid(f"{target}: '{text}' lies in another workspace. Copy it here first.", target=target)
                return own
            case RegistryReference():
                raise _registry(text, target)
            case AssetReference():
                raise Invalid(f"{target}: '{text}' names an asset where a path is expected.", target=target)

    def datastore_address(self, path: DatastorePath, *, target: str) -> str:
        """The address of a path under a datastore of this workspace."""
        self._own(path.workspace, path.uri, target)
        store = self._tx.resources.find(ResourceKey(self._workspace, "datastores", path.datastore))
        if store is None:
            names = ", ".join(self._tx.resources.names(self._workspace, "datastores")) or "none"
            raise Invalid(
                f"{target}: the workspace has no datastore '{path.datastore}' (it has: {names}). Name one of these, or create it.",
                target=target,
            )
        container = str(store.properties.get("containerName") or "")
        if not container or not (store.state.get("builtIn") or FACADE in str(store.properties.get("accountName"))):
            raise Invalid(
                f"{target}: datastore '{path.datastore}' lies outside this service's blob store, which jobs cannot reach yet. "
                "Copy the files to workspaceblobstore.",
                code="NotYetImplemented",
                target=target,
            )
        return join(container, path.path)

    def kind_of(self, address: str, *, target: str, text: str) -> str:
        """`file` or `folder`, by what is stored there; Invalid when nothing is."""
        container, _, path = address.partition("/")
        if path and self._tx.blobs.find(container, path) is not None:
            return "file"
        if self._tx.blobs.list(container, prefix=f"{path}/" if path else "", limit=1):
            return "folder"
        raise Invalid(f"{target}: nothing is stored at '{text}'. Upload it first, or correct the path.", code="DataNotFound", target=target)

    def _job_output(self, reference: JobOutput, target: str) -> str:
        try:
            job = self._tx.resources.get(ResourceKey(self._workspace, "jobs", reference.job))
        except NotFound as error:
            raise Invalid(
                f"{target}: the workspace has no job '{reference.job}'. Correct its name (moorage job list).", target=target
            ) from error
        outputs: dict[str, str] = job.state.get("outputs") or {}
        if reference.output in outputs:
            return join(outputs[reference.output], reference.path)
        if reference.output in ARTIFACT_OUTPUTS:
            return join(str(job.state.get("artifacts") or ""), reference.path)
        names = ", ".join(sorted([*outputs, "artifacts"]))
        raise Invalid(
            f"{target}: job '{reference.job}' has no output '{reference.output}' (it has: {names}). Name one of these.", target=target
        )

    def _named(self, reference: Reference, type_: str, text: str, target: str) -> AssetReference:
        match reference:
            case AssetReference() if reference.type in (None, type_):
                self._own(reference.workspace, text, target)
                return reference
            case RegistryReference():
                raise _registry(text, target)
            case _:
                raise Invalid(
                    f"{target}: '{text}' is not one of the workspace's {type_}. Use azureml:NAME:VERSION or the full resource id.",
                    target=target,
                )

    def _own(self, workspace: Workspace | None, text: str, target: str) -> None:
        if workspace is not None and workspace.id.lower() != self._workspace.id.lower():
            raise Invalid(
                f"{target}: '{text}' belongs to workspace '{workspace.name}', not to '{self._workspace.name}'. Copy it here first.",
                target=target,
            )

    def _unknown(self, reference: AssetReference, type_: str, target: str) -> Invalid:
        versions: Sequence[str] = self._tx.resources.names(self._workspace, f"{type_}/versions", parent=reference.name)
        if versions:
            known = f"it has versions {', '.join(versions[-10:])}. Name one of these, or register that version first"
        else:
            known = f"the workspace has no {type_} of that name. Correct the name, or register it first"
        return Invalid(f"{target}: {type_} '{reference}' does not exist; {known}.", code="AssetNotFound", target=target)


def _registry(text: str, target: str) -> Invalid:
    return Invalid(
        f"{target}: '{text}' comes from a registry, which here has environments only. Register the asset in the workspace.",
        code="NotYetImplemented",
        target=target,
    )
