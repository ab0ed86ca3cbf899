"""Ready-made environments and the registry `azureml` that they are found in: the built-in list, and what this service has added to it.

References to them are kept as the client wrote them; what they stand for is decided when a job or deployment is submitted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from moorage.errors import Invalid, NotFound
from moorage.identity.roles import Action
from moorage.ids import Workspace
from moorage.server.arm import PROVIDER, Answer, Call, G, Handler, Route, envelope
from moorage.server.authorization import require
from moorage.server.operations import accepted
from moorage.server.resources.assets import check_name, put_version
from moorage.server.resources.environments import ENVIRONMENTS
from moorage.server.resources.environments import ROUTES as OWN
from moorage.server.sdk import conclude
from moorage.specs.manifest import Manifest
from moorage.specs.uris import CURATED_REGISTRY, RegistryReference
from moorage.store import Operation, Resource, ResourceKey, Transaction
from moorage.wire import curated
from moorage.wire.assets import Environment, read_environment
from moorage.wire.curated import Recipe, plain

# The registry's own environments lie where a workspace's would; no workspace can have this address, since its row does not exist.
_HOLDER = Workspace("registries", "registries", CURATED_REGISTRY)
_VERSIONS = ENVIRONMENTS.versions
_RESERVED = "azureml-"
# The SDK up to 1.30 cannot read an environment that nobody made.
_BUILT_IN = {"createdBy": "moorage", "createdByType": "Application", "lastModifiedBy": "moorage", "lastModifiedByType": "Application"}


def environment(tx: Transaction, reference: RegistryReference, *, target: str) -> Environment:
    """What a reference to a ready-made environment stands for.

    Raises:
        Invalid: another registry, another type of asset, an unknown name (the message lists the nearest), an unknown version or label.
    """
    if reference.registry.lower() != CURATED_REGISTRY or reference.type != "environments":
        raise Invalid(
            f"{target}: '{reference.text}' cannot be had here: the one registry is '{CURATED_REGISTRY}', and it has environments only. "
            "Register the asset in the workspace and name it azureml:NAME:VERSION.",
            code="NotYetImplemented",
            target=target,
        )
    if reference.label not in (None, "latest"):
        raise Invalid(f"{target}: '{reference.text}': the only label is latest. Name a version, or latest.", target=target)
    properties = _find(tx, reference.name, reference.version)
    if properties is None:
        raise Invalid(f"{target}: {_unknown(tx, reference)}", code="EnvironmentNotFound", target=target)
    return read_environment(reference.name, reference.version or "latest", properties, target=target)


def _find(tx: Transaction, name: str, version: str | None) -> Manifest | None:
    """The `properties` of a version: one that was added here, else the built-in one, which stands for every version of its name."""
    if (added := _added(tx, name, version)) is not None:
        return added.properties
    recipe = curated.find(name)
    return recipe.properties() if recipe else None


def _added(tx: Transaction, name: str, version: str | None = None) -> Resource | None:
    own = next((each for each in tx.resources.names(_HOLDER, ENVIRONMENTS.name) if plain(each) == plain(name)), None)
    if own is None:
        return None
    if version is not None:
        return tx.resources.find(ResourceKey(_HOLDER, _VERSIONS, version, own))
    newest = tx.resources.list(_HOLDER, _VERSIONS, parent=own, archived=False, newest_first=True, limit=1)
    return newest[0] if newest else None


def _unknown(tx: Transaction, reference: RegistryReference) -> str:
    names = tx.resources.names(_HOLDER, ENVIRONMENTS.name)
    if any(plain(each) == plain(reference.name) for each in names):
        return f"the registry has no version '{reference.version}' of environment '{reference.name}'. List what it has, or take latest."
    return (
        f"'{reference.text}' is no ready-made environment of this service. It has, nearest first: "
        f"{', '.join(curated.nearest(reference.name, names))} (all: moorage environment list --registry-name {CURATED_REGISTRY}). "
        "Take one of them, add it there, or use an environment of your own with an image or a conda file."
    )


# The registry's face


async def _discovery(call: Call) -> Answer:
    check_registry(call)
    return Answer(
        {
            "registryName": CURATED_REGISTRY,
            "primaryRegion": call.services.settings.location,
            "regions": [call.services.settings.location],
            "subscriptionId": call.services.settings.subscription,
            "resourceGroup": call.services.settings.resource_group,
            "workspaceId": "",
            "workspaceName": "",
            # The SDK puts `mferp/managementfrontend` right behind it.
            "primaryRegionResourceProviderUri": f"{call.base_url}/",
        }
    )


def check_registry(call: Call) -> None:
    """NotFound unless the path names the one registry there is."""
    if call.names["registry"].lower() != CURATED_REGISTRY:
        raise NotFound(
            f"There is no registry '{call.names['registry']}' here; the one there is is '{CURATED_REGISTRY}'.", code="RegistryNotFound"
        )


def _version(name: str, version: str, properties: Manifest, of: Resource | None = None) -> Manifest:
    base = envelope(of, properties) if of else {"properties": properties, "systemData": _BUILT_IN}
    id = f"azureml://registries/{CURATED_REGISTRY}/environments/{name}/versions/{version}"
    return {**base, "id": id, "name": version, "type": f"{PROVIDER}/registries/environments/versions"}


def _container(name: str, latest: str, following: str) -> Manifest:
    id = f"azureml://registries/{CURATED_REGISTRY}/environments/{name}"
    properties = {"latestVersion": latest, "nextVersion": following, "isArchived": False, "tags": {}, "properties": {}, "description": None}
    return {"id": id, "name": name, "type": f"{PROVIDER}/registries/environments", "properties": properties, "systemData": _BUILT_IN}


def _added_container(tx: Transaction, name: str) -> Manifest | None:
    row = next((each for each in tx.resources.list(_HOLDER, ENVIRONMENTS.name, limit=None) if plain(each.name) == plain(name)), None)
    return None if row is None else _container(row.name, str(row.state["latestVersion"]), str(row.state["nextVersion"]))


def _missing(tx: Transaction, name: str, version: str | None = None) -> NotFound:
    return NotFound(_unknown(tx, RegistryReference(name, name=name, version=version)), code="EnvironmentNotFound", target=name)


def _recipe_container(recipe: Recipe, name: str) -> Manifest:
    return _container(name, curated.VERSION, str(int(curated.VERSION) + 1))


def _read_container(tx: Transaction, name: str) -> Manifest:
    if (added := _added_container(tx, name)) is not None:
        return added
    if (recipe := curated.find(name)) is not None:
        return _recipe_container(recipe, name)
    raise _missing(tx, name)


def _read_version(tx: Transaction, name: str, version: str) -> Manifest:
    added = _added(tx, name, version)
    if added is not None:
        return _version(added.key.parent, version, added.properties, added)
    recipe = curated.find(name)
    if recipe is None:
        raise _missing(tx, name, version)
    return _version(name, version, recipe.properties())


def _read_versions(tx: Transaction, name: str) -> list[Manifest]:
    own = next((each for each in tx.resources.names(_HOLDER, ENVIRONMENTS.name) if plain(each) == plain(name)), None)
    if own is not None:
        rows = tx.resources.list(_HOLDER, _VERSIONS, parent=own, archived=False, newest_first=True, limit=None)
        return [_version(own, each.name, each.properties, each) for each in rows]
    return [_read_version(tx, name, curated.VERSION)]


async def _list(call: Call) -> Answer:
    check_registry(call)

    def read(tx: Transaction) -> list[Manifest]:
        rows = tx.resources.list(_HOLDER, ENVIRONMENTS.name, limit=None)
        added = [_container(each.name, str(each.state["latestVersion"]), str(each.state["nextVersion"])) for each in rows]
        taken = {plain(each.name) for each in rows}
        built_in = [_recipe_container(each, name) for each in curated.recipes() for name in each.names if plain(name) not in taken]
        return [*added, *built_in]

    return Answer({"value": await call.services.store.read(read), "nextLink": None})


async def _get(call: Call) -> Answer:
    check_registry(call)
    return Answer(await call.services.store.read(lambda tx: _read_container(tx, call.names["name"])))


async def _get_versions(call: Call) -> Answer:
    check_registry(call)
    return Answer({"value": await call.services.store.read(lambda tx: _read_versions(tx, call.names["parent"])), "nextLink": None})


async def _get_version(call: Call) -> Answer:
    check_registry(call)
    return Answer(await call.services.store.read(lambda tx: _read_version(tx, call.names["parent"], call.names["name"])))


async def _put_version(call: Call) -> Answer:
    """Add an environment for every workspace of the service. A name of the built-in list is replaced by it."""
    # The path names a resource group, and the registry is everybody's: whoever owns no more than the group must not change what others run.
    require(call.user, Action.MANAGE, "/")
    check_registry(call)
    name, version = call.names["parent"], call.names["name"]
    check_name(name, "name")
    check_name(version, "version")
    if call.properties().get("build"):
        raise Invalid(
            f"Registry '{CURATED_REGISTRY}' keeps no files, and a build context is files. Give the environment an image, or an image and a conda file.",
            code="NotYetImplemented",
            target="properties.build",
        )
    key = ResourceKey(_HOLDER, _VERSIONS, version, name)

    def write(tx: Transaction) -> tuple[Resource, bool, Operation | None]:
        row, created = put_version(tx, ENVIRONMENTS, key, call.body)
        return row, created, conclude(tx, call, row)

    row, created, operation = await call.services.store.write(write, actor=call.user.name)
    if operation is not None:
        # The old SDK takes no other answer than 202.
        return accepted(call, operation)
    return Answer(_version(name, version, row.properties, row), 201 if created else 200)


# A workspace's own collection answers for the reserved names too: scripts read them there.


async def _with_curated(own: Handler, call: Call) -> Answer:
    name = call.names.get("parent") or call.names.get("name", "")
    if not name.lower().startswith(_RESERVED):
        answer = await own(call)
        assert isinstance(answer, Answer)
        return answer
    if call.request.method not in ("GET", "HEAD"):
        raise Invalid(
            f"Environment names that begin with 'AzureML-' are those of ready-made ones; '{name}' cannot be written in a workspace. "
            "Take another name.",
            code="ReservedName",
            target="name",
        )

    def read(tx: Transaction) -> Manifest:
        if "parent" not in call.names:
            return _read_container(tx, name)
        if "name" in call.names:
            return _read_version(tx, name, call.names["name"])
        return {"value": _read_versions(tx, name), "nextLink": None}

    found = await call.services.store.read(read)
    return Answer(found)


_WORKSPACE = tuple(replace(route, handler=partial(_with_curated, route.handler)) for route in OWN)
_R = f"{G}/providers/{PROVIDER}/registries/{{registry}}/environments"


def _registry_routes(prefix: str) -> tuple[Route, ...]:
    base = prefix + _R
    return (
        Route("GET", base, _list, by_user=True),
        Route("GET", base + "/{name}", _get, by_user=True),
        Route("GET", base + "/{parent}/versions", _get_versions, by_user=True),
        Route("GET", base + "/{parent}/versions/{name}", _get_version, by_user=True),
        Route("PUT", base + "/{parent}/versions/{name}", _put_version, by_user=True),
    )


ROUTES = (
    *_WORKSPACE,
    Route("GET", "/registrymanagement/v1.0/registries/{registry}/discovery", _discovery, by_user=True),
    *_registry_routes(""),
    *_registry_routes("/mferp/managementfrontend"),
)
