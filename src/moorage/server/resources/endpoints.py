"""Online endpoints: a name that scores, its keys or tokens and its traffic split.

The cluster gets digests of keys, which are sealed in the store, or what tokens have to be like; tokens themselves are kept nowhere.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from moorage.errors import Conflict, Invalid
from moorage.identity.roles import Action
from moorage.identity.scoring import ScoringTokens
from moorage.identity.tokens import new_secret
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope, found
from moorage.server.engine.serving import DEPLOYMENTS, ENDPOINTS, begin_deletion, finish_deletion
from moorage.server.operations import accepted
from moorage.server.paging import page_of, paged
from moorage.server.resources.placement import Place, find_place
from moorage.server.resources.provisioning import provision
from moorage.specs.endpoints import SCORING_PATH, SWAGGER_PATH, AuthMode, ProvisioningState, check_endpoint_name, check_traffic
from moorage.specs.manifest import Manifest
from moorage.specs.routing import TokenTerms
from moorage.store import Cluster, Operation, Resource, ResourceKey, Transaction
from moorage.wire.endpoints import EndpointProperties, answered, read_endpoint
from moorage.wire.manifests import online_endpoint

# An endpoint is only a row for the router; a cluster that needs longer is away.
_TAKEN_WITHIN = timedelta(minutes=2)
PRIMARY, SECONDARY = "primaryKey", "secondaryKey"
# In an endpoint's state: the generation of its tokens (`TokenTerms`).
_SINCE = "tokensSince"
_COLLECTION = W + "/onlineEndpoints"
_ONE = _COLLECTION + "/{name}"


async def _put(call: Call) -> Answer:
    check_endpoint_name(call.names["name"])
    raw = call.properties()
    endpoint = read_endpoint(raw)
    _check_auth_mode(endpoint)
    body: Manifest = {key: call.body[key] for key in ("location", "tags", "identity", "kind", "sku") if call.body.get(key) is not None}

    def write(tx: Transaction) -> tuple[Resource, Cluster, Operation, bool]:
        key = call.key(ENDPOINTS)
        current = tx.resources.find(key)
        check_preconditions(call, current)
        place = find_place(tx, call.workspace, endpoint.compute, target="properties.compute")
        # Who does not speak of it leaves it as it is: a default would turn an endpoint of tokens into one of keys.
        mode = read_endpoint(current.properties).auth if current is not None and not raw.get("authMode") else endpoint.auth
        body["properties"] = answered({**raw, "authMode": mode.value})
        if current is not None:
            _check_changeable(current, place)
        _check_unique(tx, place, key)
        deployments = tx.resources.names(call.workspace, DEPLOYMENTS, parent=key.name)
        check_traffic(endpoint.traffic or {}, endpoint.mirror_traffic or {}, deployments)
        since = _tokens_since(tx, current, mode)
        if current is None:
            current = tx.resources.create(key, body, state={"provisioningState": ProvisioningState.CREATING.value, **since})
            created = True
        else:
            current, created = tx.resources.update(current, body=body, state={**current.state, **since}), False
        _keep_keys(tx, current, endpoint, mode)
        operation = send(tx, current, place, call.services.scoring)
        return tx.resources.get(key), place.cluster, operation, created

    resource, cluster, operation, created = await call.services.store.write(write, actor=call.user.name)
    return accepted(call, operation, _render(call, resource, cluster), created=created)


def _check_auth_mode(endpoint: EndpointProperties) -> None:
    """The original has aad_token for managed endpoints only; here its tokens would be users' own, which open the whole workspace."""
    if endpoint.auth is AuthMode.AAD_TOKEN:
        raise Invalid(
            "properties.authMode: AADToken is for managed endpoints; on a Kubernetes compute, callers would hand the cluster's router tokens "
            "that open the workspace. Use AMLToken: its tokens open one endpoint, and end.",
            code="AuthModeNotSupported",
            target="properties.authMode",
        )


def _tokens_since(tx: Transaction, current: Resource | None, mode: AuthMode) -> Manifest:
    """What an endpoint that begins to take tokens remembers: none of an earlier time open it."""
    if mode is not AuthMode.AML_TOKEN or (current is not None and read_endpoint(current.properties).auth is mode):
        return {}
    return {_SINCE: _next_generation(tx, current)}


def _next_generation(tx: Transaction, current: Resource | None) -> int:
    before = int(current.state.get(_SINCE) or 0) if current is not None else 0
    return max(before + 1, int(tx.now.timestamp() * 1000))


def _check_stays(current: Resource) -> None:
    """What is sent to the cluster of an endpoint that goes would bring it back there, for good."""
    if current.state.get("deleting"):
        raise Conflict(f"Endpoint '{current.name}' is being deleted. Wait for that, then create it again.", code="EndpointDeleting")


def _check_changeable(current: Resource, place: Place) -> None:
    _check_stays(current)
    before = current.state.get("compute")
    if before is not None and before != place.compute.name:
        raise Conflict(
            f"Endpoint '{current.name}' is served by compute '{before}', which cannot change to '{place.compute.name}'. "
            "Create another endpoint there and move the clients.",
            code="ComputeImmutable",
            target="properties.compute",
        )


def _check_unique(tx: Transaction, place: Place, key: ResourceKey) -> None:
    """A cluster has one router, and its addresses hold nothing but the endpoint's name."""
    for _, owner in tx.desired.owners(place.cluster.id, ENDPOINTS):
        if owner.name.lower() == key.name.lower() and owner.key != key:
            raise Conflict(
                f"Another workspace or spelling has an endpoint '{owner.name}' on the cluster of compute '{place.compute.name}'. Choose another name.",
                code="EndpointNameTaken",
                target="name",
            )


def _keep_keys(tx: Transaction, endpoint: Resource, wanted: EndpointProperties, mode: AuthMode) -> None:
    """Seal the keys given, and make those that an endpoint with keys lacks."""
    given = {PRIMARY: wanted.keys.primary_key, SECONDARY: wanted.keys.secondary_key} if wanted.keys else {}
    for name in (PRIMARY, SECONDARY):
        value = given.get(name)
        if value is not None:
            tx.secrets.put(endpoint.id, name, value)
        elif mode is AuthMode.KEY and tx.secrets.find(endpoint.id, name) is None:
            tx.secrets.put(endpoint.id, name, new_secret())


def send(tx: Transaction, endpoint: Resource, place: Place, scoring: ScoringTokens) -> Operation:
    """Tell the cluster what the endpoint is now; the operation that lasts until it knows."""
    wanted = read_endpoint(endpoint.properties)
    digests, tokens = [], None
    if wanted.auth is AuthMode.KEY:
        keys = [tx.secrets.find(endpoint.id, name) for name in (PRIMARY, SECONDARY)]
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys if key is not None]
    elif wanted.auth is AuthMode.AML_TOKEN:
        tokens = TokenTerms(_audience(endpoint), _generation(endpoint), scoring.public_keys)
    deployments = tx.resources.names(endpoint.key.workspace, DEPLOYMENTS, parent=endpoint.name)
    manifest = online_endpoint(place.placement, endpoint.name, wanted, deployments=deployments, key_digests=digests, tokens=tokens)
    return provision(tx, endpoint, place, manifest, within=_TAKEN_WITHIN)


def _audience(endpoint: Resource) -> str:
    return endpoint.id.lower()


def _generation(endpoint: Resource) -> int:
    return int(endpoint.state[_SINCE])


async def _get(call: Call) -> Answer:
    def read(tx: Transaction) -> tuple[Resource, Cluster | None]:
        endpoint = tx.resources.get(call.key(ENDPOINTS))
        return endpoint, _cluster(tx, endpoint)

    endpoint, cluster = await call.services.store.read(read)
    return found(endpoint, _properties(endpoint, cluster), location=call.services.settings.location)


def _cluster(tx: Transaction, endpoint: Resource) -> Cluster | None:
    return next((each for each in tx.clusters.list() if each.id == endpoint.state.get("cluster")), None)


async def _list(call: Call) -> Answer:
    page = page_of(call)

    def read(tx: Transaction) -> tuple[list[Resource], dict[str, Cluster]]:
        resources = tx.resources.list(call.workspace, ENDPOINTS, after=page.after, limit=page.limit + 1, newest_first=page.newest_first)
        return list(resources), {each.id: each for each in tx.clusters.list()}

    resources, clusters = await call.services.store.read(read)
    return paged(call, page, resources, lambda each: _render(call, each, clusters.get(str(each.state.get("cluster")))))


async def _delete(call: Call) -> Answer:
    def write(tx: Transaction) -> Operation | None:
        endpoint = tx.resources.find(call.key(ENDPOINTS))
        if endpoint is None:
            return None
        if not endpoint.state.get("deleting"):
            endpoint = begin_deletion(tx, endpoint)
        operation = tx.operations.start(call.workspace, endpoint.id, "delete")
        finish_deletion(tx, endpoint)
        return operation

    operation = await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 204) if operation is None else accepted(call, operation)


async def _list_keys(call: Call) -> Answer:
    def read(tx: Transaction) -> Manifest:
        endpoint = tx.resources.get(call.key(ENDPOINTS))
        _check_has_keys(endpoint)
        return {name: tx.secrets.find(endpoint.id, name) for name in (PRIMARY, SECONDARY)}

    return Answer(await call.services.store.read(read), 200, {"Cache-Control": "no-store"})


def _check_has_keys(endpoint: Resource) -> None:
    mode = read_endpoint(endpoint.properties).auth
    if mode is not AuthMode.KEY:
        raise Invalid(
            f"Endpoint '{endpoint.name}' has no keys: its authMode is {mode.value}. Use token.", code="NoKeys", target="properties.authMode"
        )


async def _regenerate(call: Call) -> Answer:
    """A new key; of an endpoint with tokens: all of them revoked. The original has no word for that, and refuses there."""
    kinds = {"primary": PRIMARY, "secondary": SECONDARY}
    kind = str(call.body.get("keyType") or "").lower()

    def write(tx: Transaction) -> Operation:
        endpoint = tx.resources.get(call.key(ENDPOINTS))
        _check_stays(endpoint)
        place = find_place(tx, call.workspace, str(endpoint.properties.get("compute")), target="properties.compute")
        if read_endpoint(endpoint.properties).auth is AuthMode.AML_TOKEN:
            endpoint = tx.resources.update(endpoint, state={**endpoint.state, _SINCE: _next_generation(tx, endpoint)})
        elif kind in kinds:
            # The SDK sends the old key as `keyValue`: it is not what is wanted.
            tx.secrets.put(endpoint.id, kinds[kind], new_secret())
        else:
            raise Invalid(f"keyType must be Primary or Secondary, not '{call.body.get('keyType')}'.", target="keyType")
        return send(tx, endpoint, place, call.services.scoring)

    return accepted(call, await call.services.store.write(write, actor=call.user.name))


async def _token(call: Call) -> Answer:
    endpoint = await call.services.store.read(lambda tx: tx.resources.get(call.key(ENDPOINTS)))
    if read_endpoint(endpoint.properties).auth is not AuthMode.AML_TOKEN:
        raise Invalid(
            f"Endpoint '{endpoint.name}' is called with a key (authMode Key). Use listKeys.", code="NoTokens", target="properties.authMode"
        )
    issued = call.services.scoring.issue(_audience(endpoint), _generation(endpoint))
    answer = {
        "accessToken": issued.token,
        "tokenType": "Bearer",
        "expiryTimeUtc": int(issued.expires.timestamp()),
        "refreshAfterTimeUtc": int(issued.refresh_after.timestamp()),
    }
    return Answer(answer, 200, {"Cache-Control": "no-store"})


def _render(call: Call, endpoint: Resource, cluster: Cluster | None) -> Manifest:
    return envelope(endpoint, _properties(endpoint, cluster), location=call.services.settings.location)


def _properties(endpoint: Resource, cluster: Cluster | None) -> Manifest:
    router = str(cluster.inventory.get("routerUrl") or "").rstrip("/") if cluster else ""
    return {
        **endpoint.properties,
        "scoringUri": router + SCORING_PATH.format(name=endpoint.name) if router else None,
        "swaggerUri": router + SWAGGER_PATH.format(name=endpoint.name) if router else None,
        "provisioningState": endpoint.state.get("provisioningState"),
        "moorage": {"error": endpoint.state.get("error")},
    }


ROUTES = (
    Route("PUT", _ONE, _put),
    Route("GET", _ONE, _get),
    Route("GET", _COLLECTION, _list),
    Route("DELETE", _ONE, _delete),
    Route("POST", _ONE + "/listKeys", _list_keys, action=Action.SECRETS),
    Route("POST", _ONE + "/regenerateKeys", _regenerate, action=Action.SECRETS),
    Route("POST", _ONE + "/token", _token, action=Action.SECRETS),
)
