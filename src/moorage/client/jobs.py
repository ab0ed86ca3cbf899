"""Jobs: submit, follow, cancel, and fetch what they left behind."""

from __future__ import annotations

import codecs
import random
import re
import secrets
import string
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from moorage.client.assets import DATASTORE, Assets, Upload, datastore
from moorage.client.connection import Client
from moorage.client.transport import Tell, Transport
from moorage.errors import Invalid, MoorageError, NotFound
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document
from moorage.wire.warning import SOURCE

ARTIFACTS = "workspaceartifactstore"
TERMINAL = frozenset({"Completed", "Failed", "Canceled", "NotResponding", "Paused"})
# The original's rule for what of a job is streamed: the first process's log, and before it the log of the image's build.
_STREAMED = re.compile(r"^(?:user_logs/std_log\D*0*(?:_ps)?|azureml-logs/\d\d.+)\.txt$")
_DATASTORE_URI = re.compile(r"^azureml://(?:subscriptions/.*?)?/?datastores/(?P<store>[^/]+)/paths/(?P<path>.*)$", re.IGNORECASE)
_JOB_URI = re.compile(r"^azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/(?P<path>.*))?$", re.IGNORECASE)
_ADJECTIVES = [
    "amber",
    "brisk",
    "calm",
    "clever",
    "dapper",
    "eager",
    "fond",
    "gentle",
    "happy",
    "jolly",
    "keen",
    "lively",
    "merry",
    "neat",
    "placid",
    "quiet",
    "rosy",
    "sunny",
    "tidy",
    "witty",
]
_NOUNS = [
    "anchor",
    "bay",
    "beacon",
    "bell",
    "boat",
    "buoy",
    "cove",
    "crane",
    "delta",
    "dock",
    "ferry",
    "gull",
    "harbor",
    "jetty",
    "keel",
    "lagoon",
    "mast",
    "pier",
    "quay",
    "sail",
    "tide",
]


def new_name() -> str:
    """A name for a job without one, of the original's form: `calm_harbor_k3v9s1t2x4`."""
    tail = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(10))
    return f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}_{tail}"


def submit(client: Client, document: Document, *, upload: Upload | None = None) -> Manifest:
    """Send what the job needs and create it. Its name is made here, so that repeating a lost request cannot make two jobs.

    Raises:
        Invalid: something it names is not there; the service refuses it (unknown compute or instance type, with those there are).
        Conflict: a job of that name exists.
    """
    name = document.values.get("name") or new_name()
    document.values["name"] = name
    document.values.setdefault("experiment_name", document.folder.resolve().name or "Default")
    body = Assets(client, document, upload=upload).body()
    with document.answering():
        return dict(client.put(client.path("jobs", name), body).json())


def history(client: Client, name: str) -> str:
    """The run-history path of a job."""
    return f"/history/v1.0{client.path()}/runs/{name}"


def stream(client: Client, name: str, *, write: Callable[[str], None], say: Tell) -> Manifest:
    """Follow a job until it ends, over restarts of the service.

    Args:
        write: receives the log, as it grows.
        say: receives each change of status with its reason.

    Returns:
        The last run details: `status`, and `error` for a failed one.
    """
    logs = _Logs(client, write)
    said = ""
    quiet = 0
    try:
        while True:
            details = client.patiently(lambda: client.get(f"{history(client, name)}/details"))
            status = str(details.get("status") or "")
            if (line := _status_line(details)) != said:
                said, quiet = line, 0
                say(line)
            grown = client.patiently(partial(logs.read, details.get("logFiles") or {}))
            if status in TERMINAL:
                logs.finish()
                return details
            quiet = 0 if grown else quiet + 1
            # Half a second while there is news, two seconds after a quiet while; a little apart so that many followers spread.
            time.sleep(min(2.0, 0.5 + 0.1 * quiet) * random.uniform(0.9, 1.1))
    finally:
        logs.close()


def _status_line(details: Manifest) -> str:
    properties = details.get("properties") or {}
    reason = details.get("statusMessage") or properties.get("statusMessage") or ""
    if not reason:
        # Fields that nothing acts on were told at submission, and are no reason to wait.
        told = [item for item in details.get("warnings") or [] if isinstance(item, dict) and item.get("source") != SOURCE]
        reason = next((str(item.get("message", "")) for item in told), "")
    return f"{details.get('status')}: {reason}" if reason else str(details.get("status"))


class _Logs:
    """Reads the job's log files from where the last reading ended."""

    def __init__(self, client: Client, write: Callable[[str], None]) -> None:
        self._client = client
        self._write = write
        self._read: dict[str, int] = {}
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        # Log links carry their own signature; the token stays out of them.
        self._plain = Transport(client.transport.url, ca=client.profile.ca)

    def read(self, files: Manifest) -> bool:
        """Whether any has grown."""
        grown = False
        for name in sorted(files):
            if not _STREAMED.match(name):
                continue
            at = self._read.get(name, 0)
            # A range even for all of it: without one, a log that grows ends with its last whole line.
            headers = {"Range": f"bytes={at}-", "x-ms-range": f"bytes={at}-"}
            response = self._plain.request("GET", str(files[name]), headers=headers, allowed=(404, 416))
            if response.status_code in (404, 416):
                continue
            content = response.content if response.status_code == 206 else response.content[at:]
            if content:
                grown = True
                self._read[name] = at + len(content)
                decoder = self._decoders.setdefault(name, codecs.getincrementaldecoder("utf-8")("replace"))
                self._write(decoder.decode(content))
        return grown

    def finish(self) -> None:
        for decoder in self._decoders.values():
            if rest := decoder.decode(b"", final=True):
                self._write(rest)

    def close(self) -> None:
        self._plain.close()


def failure(details: Manifest) -> str:
    """Why a job failed, as the service tells it: exit code and last lines included."""
    error = (details.get("error") or {}).get("error") or {}
    return str(error.get("message") or "the service gives no reason; see `moorage job stream`.")


def download(
    client: Client, name: str, folder: Path, *, output: str | None = None, everything: bool = False, upload: Upload | None = None
) -> list[Path]:
    """Fetch a finished job's logs and artifacts (`artifacts/`), one named output or all of them (`named-outputs/NAME/`).

    Raises:
        Invalid: the job has not ended, or has no such output.
    """
    job = client.get(client.path("jobs", name))
    status = str((job.get("properties") or {}).get("status"))
    if status not in TERMINAL:
        raise Invalid(f"the job {name} is {status}; its outputs can be fetched once it has ended.", code="JobNotEnded", target=name)
    progress = upload or Upload()
    found: list[Path] = []
    if output in (None, "default") or everything:
        found += fetch(client, ARTIFACTS, f"ExperimentRun/dcid.{name}/", folder / "artifacts", progress)
    uris = output_uris(client, name)
    if output not in (None, "default"):
        if output not in uris:
            raise Invalid(
                f"the job {name} has no output '{output}'; it has {', '.join(sorted(uris)) or 'none'}.",
                code="NotFound",
                target="output_name",
            )
        uris = {str(output): uris[str(output)]}
    elif not everything:
        uris = {}
    for key, uri in sorted(uris.items()):
        store, path = place(client, uri)
        found += fetch(client, store, path, folder / "named-outputs" / key, progress)
    return found


def output_uris(client: Client, name: str) -> dict[str, str]:
    """Where each named output of a job lies."""
    run = client.post(f"/history/v1.0{client.path()}/rundata", {"runId": name, "selectRunMetadata": True})
    outputs = (run.get("runMetadata") or {}).get("outputs") or {}
    assets = {key: str(value.get("assetId")) for key, value in outputs.items() if isinstance(value, dict) and value.get("assetId")}
    if not assets:
        return {}
    found = client.post(f"/data/v1.0{client.path()}/dataversion/batchGetResolvedUris", {"values": list(assets.values())})
    values = found.get("values") or {}
    return {key: str(values[asset]["uri"]) for key, asset in assets.items() if (values.get(asset) or {}).get("uri")}


def place(client: Client, uri: str) -> tuple[str, str]:
    """Datastore and path of an `azureml://` URI; a job's output is looked up."""
    if found := _DATASTORE_URI.match(uri):
        return found["store"], found["path"]
    if found := _JOB_URI.match(uri):
        uris = output_uris(client, found["job"])
        if found["output"] in uris:
            store, path = place(client, uris[found["output"]])
            return store, f"{path.rstrip('/')}/{found['path']}" if found["path"] else path
        if found["output"] in ("artifacts", "default"):
            return ARTIFACTS, f"ExperimentRun/dcid.{found['job']}/{found['path'] or ''}"
        return DATASTORE, f"azureml/{found['job']}/{found['output']}/{found['path'] or ''}"
    raise Invalid(f"'{uri}' is not in a datastore of this workspace; fetch it from where it is.", code="UnsupportedUri", target=uri)


def fetch(client: Client, store: str, path: str, folder: Path, progress: Upload) -> list[Path]:
    """Everything at a datastore's path, which is one blob or the folder of that name."""
    with datastore(client, store) as container:
        blobs = [blob for blob in container.listing(path) if _below(blob.name, path)]
        prefix = path if path.endswith("/") else f"{path}/"
        if len(blobs) == 1 and blobs[0].name == path:
            prefix = path.rpartition("/")[0] + "/"
        counter = progress.counter(folder.name, sum(blob.size for blob in blobs))
        return container.download(blobs, prefix, folder, received=counter, replacing=progress.replaced.append)


def _below(name: str, path: str) -> bool:
    return name == path or path == "" or name.startswith(path if path.endswith("/") else f"{path}/")


def cancel(client: Client, name: str, *, wait: bool = True) -> None:
    """Ask for the end of a job; one that has ended stays as it is."""
    client.action(f"{client.path('jobs', name)}/cancel", wait=wait)


def archive(client: Client, name: str, *, hidden: bool = True) -> None:
    """Hide a job from lists, or show it again."""
    job = client.get(client.path("jobs", name))
    experiment = str((job.get("properties") or {}).get("experimentName") or "Default")
    client.patch(f"/history/v1.0{client.path()}/experiments/{experiment}/runs/{name}", {"hidden": hidden})


def edit(client: Client, name: str, fields: Manifest) -> None:
    """Change the words about a job: `displayName`, `description`; `tags` and `properties`, which are merged, null removing a name."""
    client.patch(f"{history(client, name)}", fields)


def children(client: Client, name: str) -> Iterator[Manifest]:
    """The jobs below a sweep or a pipeline, as the run history has them."""
    return client.list(f"{history(client, name)}/children")


def services(client: Client, name: str, node: int = 0) -> Manifest:
    """The services (SSH, JupyterLab and the like) of a job's node, by name."""
    found = client.get(f"{history(client, name)}/serviceinstances/{node}")
    return dict(found.get("instances") or {})


def listing(client: Client, *, view: str = "ActiveOnly", tag: str | None = None) -> Iterator[Manifest]:
    """Jobs, newest first as the service has them; with `tag` (`NAME` or `NAME=VALUE`) those that carry it."""
    return client.list(client.path("jobs"), {"listViewType": view, **({"tag": tag} if tag else {})})


def download_model(client: Client, name: str, version: str, folder: Path, *, upload: Upload | None = None) -> list[Path]:
    """A model version's files, below `folder/NAME`."""
    found = client.get(client.path("models", name, "versions", version))
    uri = str((found.get("properties") or {}).get("modelUri") or "")
    if not uri:
        raise MoorageError(f"the model {name} of version {version} has no files.", code="BadAnswer")
    store, path = place(client, uri)
    files = fetch(client, store, path, folder / name, upload or Upload())
    if not files:
        raise NotFound(f"the files of model {name} version {version} are gone from the datastore {store}.", target=name)
    return files
