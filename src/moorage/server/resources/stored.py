"""Where an asset's files are: references in `modelUri` and `dataUri`, turned into the long form that the SDK downloads from."""

from __future__ import annotations

from moorage.errors import Forbidden, Invalid
from moorage.ids import Workspace
from moorage.server.containers import foreign
from moorage.server.resources.references import FACADE, Resolver
from moorage.specs.uris import DatastorePath, JobOutput, WebAddress, facade_path, parse_reference
from moorage.store import Transaction


def long_uri(tx: Transaction, workspace: Workspace, text: str, *, target: str) -> str:
    """The address to keep for `text`: datastore paths in long form; a job's output as the path it was written to; web addresses as they are.

    Raises:
        Invalid: the reference does not parse, names what does not exist, or a job's output holds nothing.
        Forbidden: it lies in another workspace.
    """
    resolver = Resolver(tx, workspace)
    reference = parse_reference(text, target=target)
    match reference:
        case JobOutput():
            address = resolver.address(text, target=target)
            kind = resolver.kind_of(address, target=target, text=text)
            container, _, path = address.partition("/")
            return DatastorePath(_datastore(tx, workspace, container), path + ("/" if kind == "folder" else "")).long_uri(workspace)
        case DatastorePath():
            resolver.datastore_address(reference, target=target)
            return reference.long_uri(workspace)
        case WebAddress(url):
            address = facade_path(url, FACADE) or ""
            if foreign(address.partition("/")[0], workspace):
                raise Forbidden(f"{target}: '{text}' lies in another workspace.", target=target)
            return url
        case _:
            raise Invalid(f"{target}: '{text}' names an asset where a path is expected.", target=target)


def _datastore(tx: Transaction, workspace: Workspace, container: str) -> str:
    for datastore in tx.resources.list(workspace, "datastores"):
        if datastore.properties.get("containerName") == container:
            return datastore.name
    raise Invalid(f"No datastore of the workspace has the container '{container}'.", target="datastore")
