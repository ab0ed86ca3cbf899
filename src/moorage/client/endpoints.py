"""Online endpoints: keys or tokens, traffic, and a request to score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

from moorage.client.connection import Client
from moorage.client.transport import Response, score
from moorage.errors import Invalid, MoorageError
from moorage.specs.manifest import Manifest

PIN = "azureml-model-deployment"


def credentials(client: Client, name: str, endpoint: Manifest | None = None) -> Manifest:
    """Keys or a token, whichever the endpoint's `auth_mode` asks for: what `listKeys` or `token` answers."""
    path = client.path("onlineEndpoints", name)
    found = endpoint or client.get(path)
    return client.post(f"{path}/token" if takes_tokens(found) else f"{path}/listKeys")


def takes_tokens(endpoint: Manifest) -> bool:
    """Whether callers of the endpoint send tokens, which end, instead of keys."""
    return str((endpoint.get("properties") or {}).get("authMode", "Key")).lower() == "amltoken"


def regenerate(client: Client, name: str, which: str, *, wait: bool = True) -> Manifest:
    """Make a new key, `primary` or `secondary`; the old one stops working. Of an endpoint with tokens, all stop working.

    Returns:
        What is good from now on, as `credentials`.
    """
    path = client.path("onlineEndpoints", name)
    kind = {"primary": "Primary", "secondary": "Secondary"}[which]
    client.action(f"{path}/regenerateKeys", {"keyType": kind}, wait=wait)
    return credentials(client, name)


def invoke(
    client: Client, name: str, body: bytes, *, deployment: str | None = None, headers: Mapping[str, str] | None = None, timeout: timedelta
) -> Response:
    """POST a request to the endpoint's scoring URI with its key, or with a token asked for right now.

    Args:
        body: JSON, as the scoring script's `run()` takes it.
        deployment: send it to this deployment, whatever the traffic shares.
        timeout: how long to wait for the answer.

    Raises:
        MoorageError: any answer but 200, with what the scoring container said about it.
        Unavailable: no answer.
    """
    endpoint = client.get(client.path("onlineEndpoints", name))
    uri = (endpoint.get("properties") or {}).get("scoringUri")
    if not uri:
        raise Invalid(
            f"the endpoint {name} has no scoring URI yet; is it provisioned? See `moorage online-endpoint show -n {name}`.", code="NotReady"
        )
    secret = credentials(client, name, endpoint)
    key = str(secret.get("primaryKey") or secret.get("accessToken") or "")
    sent = {**(headers or {}), **({PIN: deployment} if deployment else {})}
    response = score(str(uri), key, body, headers=sent, ca=client.profile.ca, timeout=timeout)
    if response.status_code != 200:
        raise refusal(name, response)
    return response


def _said(text: str) -> str:
    """What an answer says: the router's own errors are an envelope around one sentence, a script's are what they are."""
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = None
    return (said if isinstance(said, str) else text).strip().removesuffix(".")


def refusal(name: str, response: Response) -> MoorageError:
    """What went wrong with a scoring request, in one message."""
    parts = [f"the endpoint {name} answered {response.status_code} {response.reason_phrase}".rstrip()]
    status, reason = (response.headers.get(f"ms-azureml-model-error-{what}") for what in ("statuscode", "reason"))
    if status or reason:
        parts.append(f"the model answered {status or '?'}: {reason or 'no reason given'}")
    if request_id := response.headers.get("x-request-id") or response.headers.get("x-ms-request-id"):
        parts.append(f"request id {request_id}")
    if text := _said(response.text):
        parts.append(text[:2000])
    if response.status_code in (424, 502):
        parts.append(f"the traceback is in `moorage online-deployment get-logs -e {name} -n DEPLOYMENT`")
    return MoorageError("; ".join(parts) + ".", code=f"Scoring{response.status_code}", target=name)
