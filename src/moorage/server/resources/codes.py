"""Code assets: a folder of files under an id the client made up. The same code is found again by its hash, so that it is uploaded once."""

from __future__ import annotations

from moorage.errors import Forbidden, Invalid
from moorage.server.arm import Answer, Call, Route, W, envelope
from moorage.server.containers import foreign
from moorage.server.paging import page_of, paged
from moorage.server.resources.assets import Asset, AssetType, list_versions, routes, text_field
from moorage.server.resources.references import FACADE
from moorage.specs.manifest import Manifest
from moorage.specs.uris import facade_path
from moorage.store import Resource, Transaction


def _complete(_: Transaction, asset: Asset) -> Manifest:
    uri = text_field(asset.properties, "codeUri")
    address = facade_path(uri, FACADE)
    if address is None:
        raise Invalid(
            "properties.codeUri must be an address of this service's blob store. Upload the code to where startPendingUpload says.",
            target="properties.codeUri",
        )
    if foreign(address.partition("/")[0], asset.workspace):
        raise Forbidden("properties.codeUri belongs to another workspace.", target="properties.codeUri")
    return {"description": None, "tags": {}, "properties": {}, **asset.properties}


def _content(properties: Manifest) -> object:
    return facade_path(str(properties.get("codeUri")), FACADE)


def _hash(properties: Manifest) -> str:
    inner = properties.get("properties")
    return f"{inner.get('hash_version')}:{inner['hash_sha256']}" if isinstance(inner, dict) and inner.get("hash_sha256") else ""


async def _list_by_hash(call: Call) -> Answer:
    """Versions of this code; with `hash`, of any code with that content, as long as its files are still there."""
    if "hash" not in call.query:
        return await list_versions(CODES, call)
    wanted = f"{call.query.get('hashversion', '')}:{call.query['hash']}"
    page = page_of(call, newest_first=True)

    def read(tx: Transaction) -> list[Resource]:
        same = tx.resources.list(call.workspace, CODES.versions, lookup=wanted, newest_first=True, after=page.after, limit=page.limit + 1)
        return [each for each in same if _stored(tx, each)]

    return paged(call, page, await call.services.store.read(read), envelope)


def _stored(tx: Transaction, code: Resource) -> bool:
    container, _, path = (facade_path(str(code.properties.get("codeUri")), FACADE) or "").partition("/")
    return bool(tx.blobs.list(container, prefix=f"{path}/" if path else "", limit=1))


CODES = AssetType("codes", _complete, _content, lookup=_hash)
_VERSIONS = W + "/codes/{parent}/versions"
ROUTES = (
    *(route for route in routes(CODES) if (route.method, route.pattern) != ("GET", _VERSIONS)),
    Route("GET", _VERSIONS, _list_by_hash),
)
