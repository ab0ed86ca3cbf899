"""What documents name, found or uploaded: code, environments, models and data become ids and URIs.

Everything is keyed by content, so that sending the same again, or after a crash in the middle, sends and registers nothing twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from moorage.client.blobs import Container, datastore_container
from moorage.client.connection import Client
from moorage.client.includes import merged
from moorage.client.snapshot import HASH_VERSION, UNLIMITED, Limits, Snapshot, take
from moorage.errors import Conflict, Invalid, MoorageError, NotFound
from moorage.specs.manifest import Manifest
from moorage.wire.documents import assets as bodies
from moorage.wire.documents import batch, pipeline
from moorage.wire.documents import component as components
from moorage.wire.documents.document import Document, Kind, body, load, uses
from moorage.wire.documents.references import Local, Named, Reference, ResourceId, Uri, compute_name
from moorage.wire.documents.uses import ANONYMOUS_ENVIRONMENT, Role, Use, asset_id

DATASTORE = "workspaceblobstore"
# Read as text, where others are uploaded.
_TEXTS = (Role.CONDA, Role.COMPONENT, Role.JOB, Role.ENVIRONMENT)
_DEPTH = 20
_LATEST = {"$orderBy": "createdtime desc", "$top": "1"}


class Upload:
    """Progress of uploads or downloads, for whoever shows it: called with what is sent, bytes so far and in all."""

    def __init__(self, show: Callable[[str, int, int], None] | None = None) -> None:
        self.show = show or (lambda what, sent, size: None)
        # Files of downloads that were there before under the same name.
        self.replaced: list[Path] = []

    def counter(self, what: str, size: int) -> Callable[[int], None]:
        sent = 0

        def add(amount: int) -> None:
            nonlocal sent
            sent += amount
            self.show(what, sent, size)

        return add

    def reader(self, what: str, size: int) -> Callable[[int], None]:
        """As `counter`, of what is read here before anything is sent; that it is done is no news."""
        read = 0

        def add(amount: int) -> None:
            nonlocal read
            read += amount
            if read < size:
                self.show(f"{what} is being read", read, size)

        return add


class Assets:
    """Finds and uploads what one document names.

    Args:
        client: the workspace.
        document: whose folder local paths start from, and whose positions errors name.
        upload: progress.
        where: what stands before the fields of a document that is part of another.
        depth: how many documents it is nested in.
    """

    def __init__(self, client: Client, document: Document, *, upload: Upload | None = None, where: str = "", depth: int = 0) -> None:
        self.depth = depth
        self.where = where
        self.client = client
        self.document = document
        self.upload = upload or Upload()

    def refusal(self, use: Use, problem: str) -> Invalid:
        return self.document.refusal(self.where + use.field, problem)

    def body(self) -> Manifest:
        """The document's ARM body, after everything it names has been found or sent."""
        return body(self.document, self.client.workspace, self.resolve(uses(self.document)))

    def resolve(self, wanted: Sequence[Use]) -> dict[str, str]:
        """Each use's id, URI or text. Local paths are all looked at before the first byte is sent.

        Raises:
            Invalid: a path or an asset that does not exist, with the line that names it.
        """
        # Archives that are made of included folders last until they are sent.
        with TemporaryDirectory(prefix="moorage-") as scratch:
            taken = {use.field: self._take(use, Path(scratch)) for use in wanted if _has_files(use)}
            found: dict[str, str] = {}
            for use in wanted:
                found[use.field] = self._one(use, taken.get(use.field), found)
            return found

    def _one(self, use: Use, snapshot: Snapshot | None, found: dict[str, str]) -> str:
        if use.role is Role.ENVIRONMENT and use.inline is not None:
            return self._environment(use, found)
        if use.role is Role.ENVIRONMENT and isinstance(use.reference, Local):
            return self._environment_file(use)
        if use.role is Role.CONDA:
            return self._conda(use)
        if use.role is Role.COMPONENT and (use.inline is not None or isinstance(use.reference, Local)):
            return self._component(use)
        if use.role is Role.JOB:
            return self._job(use)
        if use.role is Role.MODEL and use.inline is not None:
            return self._model(use, snapshot)
        if snapshot is not None:
            if use.role is Role.CODE:
                return self.code(snapshot)
            uri = self.send(snapshot, use.type, use.datastore)
            return self._build_uri(uri, use.datastore) if use.role is Role.BUILD else uri
        assert use.reference is not None
        return self._named(use, use.reference)

    def _take(self, use: Use, scratch: Path) -> Snapshot:
        if use.includes:
            return self._with_includes(use, scratch)
        assert isinstance(use.reference, Local)
        path = self.document.folder / Path(use.reference.path).expanduser()
        code = use.role is Role.CODE
        what = f"the code folder '{use.reference.path}'" if code else f"'{use.reference.path}'"
        try:
            snapshot = take(path, limits=Limits.of(os.environ) if code else UNLIMITED, what=what)
        except Invalid as error:
            refusal = self.refusal(use, error.message)
            refusal.code = error.code
            raise refusal from error
        if use.type == "uri_file" and path.is_dir():
            raise self.refusal(use, f"'{use.reference.path}' is a folder; write `type: uri_folder`.")
        if use.type in ("uri_folder", "mltable") and not path.is_dir():
            raise self.refusal(use, f"'{use.reference.path}' is a file; write `type: uri_file`.")
        return snapshot

    def _with_includes(self, use: Use, scratch: Path) -> Snapshot:
        """Code and what is put beside it; each include that is wrong by itself is named by its own line."""
        folder = self.document.folder
        code = folder / Path(use.reference.path).expanduser() if isinstance(use.reference, Local) else None
        if isinstance(use.reference, Local) and code is not None and not code.exists():
            raise self.refusal(use, f"the code folder '{use.reference.path}' does not exist or cannot be read: {code}.")
        what = "the code with additional_includes"
        field = f"{use.field.rpartition('.')[0]}.additional_includes".lstrip(".")
        own = scratch / field
        own.mkdir()
        try:
            return merged(code, use.includes, folder, own, limits=Limits.of(os.environ), what=what)
        except Invalid as error:
            refusal = self.document.refusal(self.where + field, error.message)
            refusal.code = error.code
            raise refusal from error

    def _conda(self, use: Use) -> str:
        if not isinstance(use.reference, Local):
            raise self.refusal(use, "must be a path beside the document, or the specification itself.")
        path = self.document.folder / Path(use.reference.path).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.refusal(use, f"the conda file '{use.reference.path}' cannot be read: {path} ({reason}).") from error
        return bodies.conda_text(text, str(use.reference.path))

    def _component_assets(self, use: Use) -> tuple[Document, Assets]:
        nested = self._nested(use, Kind.COMPONENT) if use.inline is None else replace(self.document, kind=Kind.COMPONENT, values=use.inline)
        return nested, Assets(self.client, nested, upload=self.upload, where=self._inner(use), depth=self.depth + 1)

    def _component(self, use: Use) -> str:
        """An unnamed component of a step, or the one in a file beside the document."""
        nested, inner = self._component_assets(use)
        made = components.component_body(
            nested.values,
            pipeline.component_spec(nested.values, self.client.workspace, inner.resolve(pipeline.component_needs(nested.values))),
            anonymous=True,
        )
        version = components.content_version(made)
        made["properties"]["componentSpec"] |= {"name": components.ANONYMOUS_COMPONENT, "version": version}
        answer = self.client.put(self.client.path("components", components.ANONYMOUS_COMPONENT, "versions", version), made).json()
        return str(answer.get("id") or self.client.workspace.child("components", components.ANONYMOUS_COMPONENT, "versions", version))

    def problems(self, wanted: Sequence[Use]) -> list[Invalid]:
        """What `resolve` would refuse of these uses; nothing is sent or registered."""
        found: list[Invalid] = []
        for use in wanted:
            try:
                if use.role is Role.CONDA:
                    self._conda(use)
                elif use.role is Role.COMPONENT and (use.inline is not None or isinstance(use.reference, Local)):
                    nested, inner = self._component_assets(use)
                    found += inner.problems(pipeline.component_needs(nested.values))
                elif use.role is Role.ENVIRONMENT and isinstance(use.reference, Local):
                    nested = self._nested(use, Kind.ENVIRONMENT)
                    found += Assets(self.client, nested, upload=self.upload, depth=self.depth + 1).problems(uses(nested))
                elif _has_files(use):
                    with TemporaryDirectory(prefix="moorage-") as scratch:
                        self._take(use, Path(scratch))
                elif use.reference is not None:
                    self._named(use, use.reference)
            except Invalid as error:
                found.append(error)
        return found

    def _inner(self, use: Use) -> str:
        """Where the fields of an inline component stand in the document: in the step itself when that is the component."""
        if use.inline is None:
            return ""
        own = self.document.where.get(f"{self.where}{use.field}") is not None
        return f"{self.where}{use.field}." if own else f"{self.where}{use.field.rpartition('.')[0]}."

    def _job(self, use: Use) -> str:
        """What a schedule starts, as JSON: a pipeline's definition, or the name of a job to repeat."""
        if isinstance(use.reference, Local):
            nested = self._nested(use, Kind.JOB)
            if "jobs" not in nested.values and "component" not in nested.values:
                raise self.refusal(use, f"'{use.reference.path}' is no pipeline; a schedule starts pipelines. Make it a step of one.")
            nested.values.setdefault("experiment_name", nested.folder.resolve().name or "Default")
            return json.dumps(Assets(self.client, nested, upload=self.upload, depth=self.depth + 1).body()["properties"])
        match use.reference:
            case Named(name):
                id = self.client.workspace.child("jobs", name)
            case ResourceId(text):
                id = text
            case _:
                raise self.refusal(use, "must be the path of a pipeline's document, or azureml:JOB.")
        return json.dumps({"sourceJobId": id})

    def _nested(self, use: Use, kind: Kind) -> Document:
        """The document that a field names by its path; what it names itself starts from its own folder."""
        assert isinstance(use.reference, Local)
        path = self.document.folder / Path(use.reference.path).expanduser()
        if self.depth > _DEPTH:
            raise self.refusal(use, f"'{use.reference.path}': documents name each other in a circle, or too deeply.")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            named = isinstance(error, FileNotFoundError) and Path(use.reference.path).name == use.reference.path and not path.suffix
            remedy = f" One that is registered is written azureml:{use.reference.path}@latest." if named else ""
            raise self.refusal(use, f"the document '{use.reference.path}' cannot be read: {path} ({reason}).{remedy}") from error
        return load(kind, text, name=str(path), folder=path.parent)

    def _named(self, use: Use, reference: Reference) -> str:
        known = asset_id(self.client.workspace, use.role, reference)
        if known is not None:
            own = known.startswith("/") and isinstance(reference, Named)
            if own and self.client.find(self._quoted(known)) is None:
                assert isinstance(reference, Named)
                raise self.refusal(
                    use,
                    f"there is no {_noun(use.role)} '{reference.name}' of version {reference.version}. {_look(use.role, reference.name)}",
                )
            return known
        assert isinstance(reference, Named)
        if reference.label not in (None, "latest"):
            raise self.refusal(use, f"'{reference}': the only label there is is latest.")
        if reference.label is None:
            raise self.refusal(use, f"'{reference}' names no version; write {reference}:VERSION or {reference}@latest.")
        try:
            return str(latest(self.client, use.role, reference.name)["id"])
        except NotFound as error:
            raise self.refusal(use, f"there is no {_noun(use.role)} named '{reference.name}'. {_look(use.role)}") from error

    def _quoted(self, id: str) -> str:
        from urllib.parse import quote

        return quote(id, safe="/")

    def _environment(self, use: Use, found: dict[str, str]) -> str:
        assert use.inline is not None
        made = bodies.environment_body(use.inline, found, prefix=f"{use.field}.", anonymous=True)
        version = bodies.content_version(made)
        answer = self.client.put(self.client.path("environments", ANONYMOUS_ENVIRONMENT, "versions", version), made).json()
        return str(answer.get("id") or self.client.workspace.child("environments", ANONYMOUS_ENVIRONMENT, "versions", version))

    def _environment_file(self, use: Use) -> str:
        """The environment in a document beside this one (`environment: file:env.yml`), registered without a name."""
        nested = self._nested(use, Kind.ENVIRONMENT)
        inner = Assets(self.client, nested, upload=self.upload, depth=self.depth + 1)
        whole = Use("environment", Role.ENVIRONMENT, None, inline=nested.values)
        resolved = inner.resolve(uses(nested))
        return inner._environment(whole, {f"environment.{field}": answer for field, answer in resolved.items()})

    def _model(self, use: Use, snapshot: Snapshot | None) -> str:
        assert use.inline is not None
        if snapshot is None:
            if isinstance(use.reference, Named | ResourceId):
                return self._named(use, use.reference)
            assert isinstance(use.reference, Uri)
            uri = use.reference.text
        else:
            uri = self.send(snapshot, use.type, use.datastore)
        named = "name" in use.inline
        name = use.inline["name"] if named else uuid.uuid5(uuid.NAMESPACE_URL, f"{self.client.workspace.id} {uri}").hex
        version = str(use.inline.get("version") or (next_version(self.client, Role.MODEL, name) if named else "1"))
        made = bodies.model_body(use.inline, uri, anonymous=not named)
        answer = self.client.put(self.client.path("models", name, "versions", version), made).json()
        return str(answer.get("id") or self.client.workspace.child("models", name, "versions", version))

    def code(self, snapshot: Snapshot) -> str:
        """A code asset with these files: the one that is there already, or a new one."""
        digest = snapshot.hash(self.upload.reader(snapshot.root.resolve().name, snapshot.size))
        fresh = str(uuid.uuid4())
        versions = self.client.path("codes", fresh, "versions")
        for known in self.client.list(versions, {"hash": digest, "hashVersion": HASH_VERSION}):
            if known.get("id"):
                return str(known["id"])
        path = self.client.path("codes", fresh, "versions", "1")
        pending = self.client.post(f"{path}/startPendingUpload", {"pendingUploadType": "TemporaryBlobReference"})
        try:
            place = pending["blobReferenceForConsumption"]
            link, base = str(place["credential"]["sasUri"]), str(place["blobUri"])
        except (KeyError, TypeError) as error:
            raise MoorageError("the service's answer names no place to upload to.", code="BadAnswer") from error
        folder = snapshot.folder or (snapshot.root.resolve().name if snapshot.root.is_dir() else "code")
        where, _, signature = link.partition("?")
        with Container(where, signature, ca=self.client.profile.ca) as container:
            container.upload(snapshot.files, folder, sent=self.upload.counter("code", snapshot.size))
        properties = {"hash_sha256": digest, "hash_version": HASH_VERSION}
        made = {"properties": {"codeUri": f"{base}/{folder}", "isAnonymous": True, "properties": properties}}
        return str(self.client.put(path, made).json().get("id") or self.client.workspace.child("codes", fresh, "versions", "1"))

    def send(self, snapshot: Snapshot, what: str = "data", place: str = "") -> str:
        """Upload into a datastore, or the default one, unless it is there; answers its `azureml://datastores/...` URI."""
        store = _store(place)
        name = snapshot.root.resolve().name
        top = f"LocalUpload/{snapshot.hash(self.upload.reader(name, snapshot.size))}"
        folder = snapshot.root.is_dir()
        prefix = f"{top}/{name}" if folder else top
        indicator = f"{prefix}/{snapshot.files[0].name}"
        with datastore(self.client, store) as container:
            if (container.metadata(indicator) or {}).get("upload_status") != "completed":
                container.upload(snapshot.files, prefix, sent=self.upload.counter(name, snapshot.size))
                container.mark(indicator, {"upload_status": "completed", "name": top.rpartition("/")[2], "version": "1"})
        return f"azureml://datastores/{store}/paths/{top}/{name}{'/' if folder else ''}"

    def _build_uri(self, uri: str, place: str) -> str:
        key = uri.partition("/paths/")[2]
        with datastore(self.client, _store(place)) as container:
            return f"{container.url}/{key.rstrip('/')}/"


def _has_files(use: Use) -> bool:
    """Whether it names files of this machine that are sent as they are."""
    return bool(use.includes) or (isinstance(use.reference, Local) and use.role not in _TEXTS)


def _store(place: str) -> str:
    """`azureml:archive`, an id or a name, as a document says where its files go; the default datastore where it says nothing."""
    return (place or DATASTORE).rstrip("/").rpartition("/")[2].removeprefix("azureml:")


def check(client: Client, document: Document) -> None:
    """Look for everything that a job's document names: files here, assets and computes in the workspace. Nothing is sent.

    Raises:
        Invalid: what is not there, or not as it must be; one line for each.
    """
    found = [*Assets(client, document).problems(uses(document)), *_missing_computes(client, document)]
    if len(found) == 1:
        raise found[0]
    if found:
        raise Invalid("\n".join(error.message for error in found), code="ValidationError", target=found[0].target, details=tuple(found))


def invocation(client: Client, document: Document) -> Manifest:
    """The body of a batch endpoint's invocation.

    Raises:
        Invalid: an input that is not there; nothing is sent.
    """
    wanted, assets = batch.invocation_needs(document.values), Assets(client, document)
    if found := assets.problems(wanted):
        raise found[0]
    # Local files stay here as long as invoking is refused in any case.
    named = [use for use in wanted if not isinstance(use.reference, Local)]
    local = {use.field: use.reference.path for use in wanted if isinstance(use.reference, Local)}
    return batch.invocation_body(document.values, {**local, **assets.resolve(named)})


def _missing_computes(client: Client, document: Document) -> list[Invalid]:
    values = document.values
    steps = {f"jobs.{name}.compute": step.get("compute") for name, step in (values.get("jobs") or {}).items()}
    settings = {"settings.default_compute": (values.get("settings") or {}).get("default_compute")}
    found, known = [], {str(each.get("name")) for each in client.list(client.path("computes"))}
    for field, text in {"compute": values.get("compute"), **settings, **steps}.items():
        if text and compute_name(str(text)) not in known:
            there = ", ".join(sorted(known)) or "none yet; attach one with `moorage compute attach`"
            found.append(document.refusal(field, f"there is no compute target '{compute_name(str(text))}'; there are: {there}."))
    return found


def datastore(client: Client, name: str = DATASTORE) -> Container:
    """A datastore's container with a fresh signature."""
    path = client.path("datastores", name)
    found = client.get(path)
    secret = client.post(f"{path}/listSecrets")
    if not secret.get("sasToken"):
        raise MoorageError(f"the datastore {name} gives no shared access signature.", code="BadAnswer")
    container = datastore_container(found.get("properties") or {}, str(secret["sasToken"]), ca=client.profile.ca)
    if not client.transport.origin(container.url) and urlsplit(container.url).scheme != "https":
        raise MoorageError(f"the datastore {name} is not reached over https.", code="BadAnswer")
    return container


def latest(client: Client, role: Role, name: str) -> Manifest:
    """The newest version of an asset; NotFound when there is none."""
    for found in client.list(client.path(role.value, name, "versions"), _LATEST):
        return found
    raise NotFound(f"there is no {_noun(role)} named '{name}'. {_look(role)}", target=name)


def next_version(client: Client, role: Role, name: str) -> str:
    """The version that a document without one gets."""
    container = client.find(client.path(role.value, name))
    return str(((container or {}).get("properties") or {}).get("nextVersion") or "1")


def register(client: Client, document: Document, *, upload: Upload | None = None) -> Manifest:
    """Create an environment, model, data or component version; without a version it becomes the next one.

    Raises:
        Conflict: that version exists with another content.
    """
    role = {
        Kind.ENVIRONMENT: Role.ENVIRONMENT,
        Kind.MODEL: Role.MODEL,
        Kind.DATA: Role.DATA,
        Kind.COMPONENT: Role.COMPONENT,
    }[document.kind]
    name = document.values.get("name")
    if not name:
        raise document.refusal("name", "is required, and is missing; give it in the document or with --name.")
    made = Assets(client, document, upload=upload).body()
    given = document.values.get("version")
    version = str(given or _version(client, role, name))
    try:
        with document.answering():
            return dict(client.put(client.path(role.value, name, "versions", version), made).json())
    except Conflict:
        # Two people asked for the next version at once, or an environment's content changed: the one after is free.
        if given:
            raise
    version = next_version(client, role, name)
    return dict(client.put(client.path(role.value, name, "versions", version), made).json())


def archive(client: Client, role: Role, name: str, version: str | None, *, hidden: bool = True) -> None:
    """Hide a version from lists, or all of a name when `version` is None; or show it again."""
    path = client.path(role.value, name, *(("versions", version) if version else ()))
    found = client.get(path).get("properties") or {}
    kept = found if version else {field: found[field] for field in ("description", "tags", "properties") if field in found}
    client.put(path, {"properties": {**kept, "isArchived": hidden}})


def edit(client: Client, role: Role, name: str, version: str, words: Manifest) -> Manifest:
    """Change the words about a version, under their CLI v2 names; its content stays what it is."""
    path = client.path(role.value, name, "versions", version)
    properties = dict(client.get(path).get("properties") or {})
    spec = properties.get("componentSpec")
    if isinstance(spec, dict):
        # A component says these in its specification as well.
        properties["componentSpec"] = {**spec, **{field: value for field, value in words.items() if field != "properties"}}
    properties |= {field: value for field, value in words.items() if field != "display_name"}
    return dict(client.put(path, {"properties": properties}).json())


def _version(client: Client, role: Role, name: str) -> str:
    """As the original: an environment is first offered as its latest version, where the same content changes nothing."""
    container = (client.find(client.path(role.value, name)) or {}).get("properties") or {}
    chosen = container.get("latestVersion") if role in (Role.ENVIRONMENT, Role.COMPONENT) else None
    return str(chosen or container.get("nextVersion") or "1")


def _look(role: Role, name: str | None = None) -> str:
    """Where to see what there is, for a name that is not."""
    noun = {Role.ENVIRONMENT: "environment", Role.MODEL: "model", Role.DATA: "data", Role.COMPONENT: "component"}.get(role)
    if noun is None:
        return ""
    ready = "; ready-made ones: moorage environment list --registry-name azureml" if role is Role.ENVIRONMENT and name is None else ""
    return f"See what there is: moorage {noun} list{f' --name {name}' if name else ''}{ready}."


def _noun(role: Role) -> str:
    return {
        Role.ENVIRONMENT: "environment",
        Role.MODEL: "model",
        Role.DATA: "data asset",
        Role.CODE: "code asset",
        Role.COMPONENT: "component",
    }.get(role, role.value)
