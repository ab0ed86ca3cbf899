"""What clients of registries ask for and there is not: everything but the environments of the one registry (`curated`). Each is refused in words of its own.

The SDK's client of a registry asks for a place to upload files before it makes anything, an environment without files included, and goes on when it
hears that there is none to be had (409).
"""

from __future__ import annotations

from moorage.errors import Conflict, Invalid
from moorage.server.arm import PROVIDER, Answer, Call, G, Handler, Route
from moorage.server.resources.curated import check_registry
from moorage.specs.uris import CURATED_REGISTRY
from moorage.wire.later import CODE

_METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")
_ALL = f"{G}/providers/{PROVIDER}/registries"
_ONE = _ALL + "/{registry}"
_BELOW = (
    "/{kind}",
    "/{kind}/{name}",
    "/{kind}/{name}/versions",
    "/{kind}/{name}/versions/{version}",
    "/{kind}/{name}/versions/{version}/{action}",
)
_REGISTERED = "Register it in the workspace instead, with a client that names the workspace, and refer to it as azureml:NAME:VERSION."


async def _registries(call: Call) -> Answer:
    raise _refusal(
        f"Registries cannot be listed, made, changed or deleted here: there is one, '{CURATED_REGISTRY}', and it belongs to the service. "
        f"List its environments: moorage environment list --registry-name {CURATED_REGISTRY}.",
        "registries",
    )


async def _import(call: Call) -> Answer:
    check_registry(call)
    raise _refusal(
        f"Nothing can be shared from a workspace into registry '{CURATED_REGISTRY}'. An owner of the service adds an environment with "
        f"`moorage environment create --file FILE --registry-name {CURATED_REGISTRY}`; other assets can be registered in each workspace that needs them.",
        "registry_name",
    )


async def _below(call: Call) -> Answer:
    check_registry(call)
    kind = call.names["kind"].lower()
    if kind == "environments":
        raise _refusal(
            f"Environments of registry '{CURATED_REGISTRY}' can be read, and versions added; they cannot be archived, changed or deleted. "
            "Add a version of the name: what refers to its latest one takes that.",
            call.names.get("name", kind),
        )
    raise _refusal(f"Registry '{CURATED_REGISTRY}' has environments only, no {kind}. {_REGISTERED}", kind)


async def _place(call: Call) -> Answer:
    check_registry(call)
    asset = str(call.body.get("assetId") or "")
    if "/environments/" in asset:
        raise Conflict("An environment of the registry has no files to upload.", code="NothingToUpload", target=asset)
    raise _refusal(f"Registry '{CURATED_REGISTRY}' takes no files: it has environments only. {_REGISTERED}", asset or call.names["name"])


def _refusal(message: str, target: str) -> Invalid:
    return Invalid(message, code=CODE, target=target)


def _routes(prefix: str) -> tuple[Route, ...]:
    # Whoever may not write is told that, and not what else there is not.
    return (
        *(_route(method, prefix + path, _registries) for path in (_ALL, _ONE) for method in _METHODS),
        _route("POST", prefix + _ONE + "/import", _import),
        _route("PUT", prefix + _ONE + "/tempdatarefs/{name}/versions/{version}", _place),
        *(_route(method, prefix + _ONE + path, _below) for path in _BELOW for method in _METHODS),
    )


def _route(method: str, pattern: str, handler: Handler) -> Route:
    return Route(method, pattern, handler, by_user=method == "GET")


ROUTES = (*_routes(""), *_routes("/mferp/managementfrontend"))
