"""What the blob facade says of the service and of containers: which there are, their properties, and their blobs page by page.

Containers belong to workspaces and come and go with them; no request makes or deletes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from starlette.responses import Response

from moorage.errors import Conflict, Forbidden, Invalid, NotFound
from moorage.identity.roles import Action, decide
from moorage.server.blobrequest import Asked
from moorage.server.containers import owned_by, workspace_key
from moorage.server.xml import container_properties, containers, listing
from moorage.store import Transaction

_PAGE = 5000


async def list_blobs(asked: Asked) -> Response:
    query = asked.query
    prefix, delimiter, marker = (query.get(name, "") for name in ("prefix", "delimiter", "marker"))
    limit = _page(query)

    found = await asked.services.store.read(
        lambda tx: (
            tx.blobs.list_folder(asked.container, prefix=prefix, delimiter=delimiter, after=marker, limit=limit)
            if delimiter
            else tx.blobs.list(asked.container, prefix=prefix, after=marker, limit=limit)
        )
    )
    last = found[-1] if len(found) == limit else ""
    # After a folder the next page begins behind everything in it.
    following = (last + "\U0010ffff" if last else "") if isinstance(last, str) else last.name
    shown = [each for each in found if asked.visible(each if isinstance(each, str) else each.name)]
    return Response(listing(asked.container, shown, query, following), media_type="application/xml")


async def show_container(asked: Asked) -> Response:
    return Response(headers=container_properties(asked.container, await _since(asked)))


async def refuse_container_write(asked: Asked) -> Response:
    """Creating one that is there is the usual Conflict, so that scripts that make sure of their container go on."""
    await _since(asked)
    if asked.request.method == "PUT" and not asked.query.get("comp"):
        raise Conflict("The specified container already exists.", code="ContainerAlreadyExists", target=asked.container)
    raise never()


async def list_containers(asked: Asked) -> Response:
    """The containers of the workspaces that the caller may read."""
    user, query = asked.user, asked.query
    prefix, marker = query.get("prefix", ""), query.get("marker", "")
    limit = _page(query)

    def read(tx: Transaction) -> list[tuple[str, datetime]]:
        names: dict[str, datetime] = {}
        keys: dict[str, datetime] = {}
        for workspace in tx.resources.all_of("workspaces"):
            if user is not None and decide(user.roles, Action.READ, workspace.key.workspace.id):
                key = workspace_key(workspace.key.workspace)
                keys[key] = workspace.created_at
                names |= {f"{key}-{kind}": workspace.created_at for kind in ("blob", "artifact")}
        for name in tx.blobs.containers(prefix, marker):
            if name[:8] in keys and name[8:9] == "-":
                names[name] = keys[name[:8]]
        return sorted((name, since) for name, since in names.items() if name.startswith(prefix) and name > marker)

    found = await asked.services.store.read(read)
    following = found[limit - 1][0] if len(found) > limit else ""
    return Response(containers(found[:limit], query, following), media_type="application/xml")


async def show_account(asked: Asked) -> Response:
    return Response(headers={"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "BlockBlobStorage", "x-ms-is-hns-enabled": "false"})


async def _since(asked: Asked) -> datetime:
    workspace = await asked.services.store.read(lambda tx: owned_by(tx, asked.container))
    if workspace is None:
        raise NotFound("The specified container does not exist.", code="ContainerNotFound", target=asked.container)
    return workspace.created_at


def never() -> Forbidden:
    """Why no container is made or deleted."""
    return Forbidden(
        "Containers belong to workspaces and come and go with them: use the container of the workspace's datastore, and folders in it.",
        code="InsufficientAccountPermissions",
    )


def _page(query: Mapping[str, str]) -> int:
    text = query.get("maxresults", "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise Invalid("maxresults must be a number above 0.", code="OutOfRangeQueryParameterValue", target="maxresults")
    return min(int(text or _PAGE), _PAGE)
