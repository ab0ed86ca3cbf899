"""startPendingUpload: a place of its own for an asset's files, and a signed link that writes there."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from moorage.identity import links
from moorage.server.arm import Answer, Call, Route, W
from moorage.server.containers import code_container

_LINK = timedelta(hours=24)


async def _start(call: Call) -> Answer:
    # A container for each upload: what was uploaded for a version once cannot be changed by asking again.
    name = code_container(call.workspace, str(uuid4()))
    uri = call.absolute(f"/blobstore/{name}")
    query = call.services.links.container(name, links.READ + links.LIST + links.WRITE, _LINK)
    return Answer(
        {
            "blobReferenceForConsumption": {
                "blobUri": uri,
                "storageAccountArmId": "",
                "credential": {"credentialType": "SAS", "sasUri": f"{uri}?{query}"},
            },
            "pendingUploadId": name,
            "pendingUploadType": "TemporaryBlobReference",
        }
    )


ROUTES = tuple(
    Route("POST", f"{W}/{type}/{{parent}}/versions/{{name}}/startPendingUpload", _start)
    for type in ("codes", "models", "data", "environments")
)
