"""Datastore documents: storage that data may lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import NAME, READ_ONLY, TAGS
from moorage.wire.documents.shapes import Chosen, Record, Shape, Text, choices
from moorage.wire.documents.support import FIELDS


def _credentials_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    given = [name for name in ("account_key", "sas_token", "client_id") if name in values]
    if len(given) > 1:
        return [(given[1], f"give either {' or '.join(given)}.")]
    missing = [name for name in ("tenant_id", "client_id") if name not in values]
    if ("client_secret" in values or "thumbprint" in values) and missing:
        return [(missing[0], "is required, and is missing.")]
    return []


_SERVICE = {name: Text() for name in ("tenant_id", "client_id", "authority_url", "resource_url")}
_BASE: dict[str, Shape] = {
    "type": Text(),
    "name": NAME,
    "description": Text(empty=True),
    "tags": TAGS,
    "account_name": Text(),
    "endpoint": Text(),
    "protocol": Text(choices("https", "http", "wasbs", "wasb", "abfss", "abfs")),
}
_COMMON: dict[str, Any] = {"ignored": READ_ONLY, "remedies": FIELDS["datastore"]}
DATASTORE = Chosen(
    "type",
    {
        "azure_blob": Record(
            {
                **_BASE,
                "container_name": Text(),
                "credentials": Record({"account_key": Text(), "sas_token": Text()}, rule=_credentials_rule, secret=True),
            },
            required=("account_name", "container_name"),
            **_COMMON,
        ),
        "azure_data_lake_gen2": Record(
            {
                **_BASE,
                "filesystem": Text(),
                "credentials": Record(
                    {**_SERVICE, "client_secret": Text(), "certificate": Text(), "thumbprint": Text()}, rule=_credentials_rule, secret=True
                ),
            },
            required=("account_name", "filesystem"),
            **_COMMON,
        ),
    },
)
_SERVICE_NAMES = {"tenant_id": "tenantId", "client_id": "clientId", "authority_url": "authorityUrl", "resource_url": "resourceUrl"}
# What the original's SDK puts in for a service principal that names none.
_SERVICE_DEFAULTS = {"authorityUrl": "https://login.microsoftonline.com"}


def datastore_body(values: Manifest) -> Manifest:
    """The ARM body of `PUT datastores/{name}`."""
    gen2 = values["type"] == "azure_data_lake_gen2"
    properties: Manifest = {
        "datastoreType": "AzureDataLakeGen2" if gen2 else "AzureBlob",
        "accountName": values["account_name"],
        "endpoint": values.get("endpoint", "core.windows.net"),
        "protocol": values.get("protocol", "https"),
        "credentials": _credentials(values.get("credentials") or {}),
        "tags": values.get("tags", {}),
    }
    properties["filesystem" if gen2 else "containerName"] = values["filesystem" if gen2 else "container_name"]
    if "description" in values:
        properties["description"] = values["description"]
    return {"properties": properties}


def _credentials(given: Manifest) -> Manifest:
    if "account_key" in given:
        return {"credentialsType": "AccountKey", "secrets": {"secretsType": "AccountKey", "key": given["account_key"]}}
    if "sas_token" in given:
        return {"credentialsType": "Sas", "secrets": {"secretsType": "Sas", "sasToken": given["sas_token"]}}
    if "client_id" not in given:
        return {"credentialsType": "None"}
    service = _SERVICE_DEFAULTS | {_SERVICE_NAMES[name]: given[name] for name in _SERVICE_NAMES if name in given}
    if "client_secret" in given:
        secrets = {"secretsType": "ServicePrincipal", "clientSecret": given["client_secret"]}
        return {"credentialsType": "ServicePrincipal", **service, "secrets": secrets}
    secrets = {"secretsType": "Certificate", **({"certificate": given["certificate"]} if "certificate" in given else {})}
    return {"credentialsType": "Certificate", **service, "thumbprint": given.get("thumbprint", ""), "secrets": secrets}
