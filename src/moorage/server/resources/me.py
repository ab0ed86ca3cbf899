"""Who the caller is to this service and where its roles reach: what a client asks once, when somebody signs in."""

from __future__ import annotations

from moorage.identity.roles import Action, decide
from moorage.server.arm import Answer, Call, Route
from moorage.store import Resource


async def _me(call: Call) -> Answer:
    every = await call.services.store.read(lambda tx: tx.resources.all_of("workspaces"))
    reached = [each for each in every if decide(call.user.roles, Action.READ, each.key.workspace.id)]
    return Answer(
        {
            "name": call.user.name,
            "roles": {scope: role.value for scope, role in call.user.roles.items()},
            "workspaces": [_workspace(each) for each in reached],
        }
    )


def _workspace(resource: Resource) -> dict[str, str]:
    # In the casing of its creation.
    own = resource.key.workspace
    return {"id": own.id, "subscription": own.subscription, "resourceGroup": own.resource_group, "name": own.name}


ROUTES = (Route("GET", "/identity/v1/me", _me, by_user=True),)
