"""Every form of reference the API accepts, durations and quantities."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.specs.durations import format_duration, parse_duration
from moorage.specs.quantities import parse_quantity
from moorage.specs.uris import (
    AssetReference,
    DatastorePath,
    JobOutput,
    Reference,
    RegistryReference,
    WebAddress,
    default_output,
    facade_path,
    fill_name,
    job_artifacts,
    parse_reference,
)

WS = Workspace("s", "g", "w")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("azureml:m:1", AssetReference("m", "1")),
        ("azureml:m@latest", AssetReference("m", label="latest")),
        ("m:3", AssetReference("m", "3")),
        (WS.child("models", "m", "versions", "2"), AssetReference("m", "2", type="models", workspace=WS)),
        # What the SDK makes of `azureml:m@latest` in Python code.
        (WS.child("models", "azureml:m", "versions", "2"), AssetReference("m", "2", type="models", workspace=WS)),
        ("azureml:" + WS.child("codes", "c", "versions", "1"), AssetReference("c", "1", type="codes", workspace=WS)),
        (WS.child("environments", "e", "labels", "latest"), AssetReference("e", label="latest", type="environments", workspace=WS)),
        ("azureml://datastores/workspaceblobstore/paths/a/b.csv", DatastorePath("workspaceblobstore", "a/b.csv")),
        ("azureml://datastores/d/paths/a//b/./c/", DatastorePath("d", "a/b/c/")),
        ("azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/x/y", DatastorePath("d", "x/y", WS)),
        ("azureml://jobs/j/outputs/model", JobOutput("j", "model")),
        ("azureml://jobs/j/outputs/artifacts/paths/outputs/m/", JobOutput("j", "artifacts", "outputs/m/")),
        ("runs:/j/outputs/m", JobOutput("j", "artifacts", "outputs/m")),
        ("https://example.org/x.csv", WebAddress("https://example.org/x.csv")),
        ("azureml:AzureML-sklearn-1.0:10", RegistryReference("azureml:AzureML-sklearn-1.0:10", name="AzureML-sklearn-1.0", version="10")),
        (
            "azureml://registries/azureml/environments/e/versions/1",
            RegistryReference("azureml://registries/azureml/environments/e/versions/1", name="e", version="1"),
        ),
    ],
)
def test_each_form_is_told_apart(text: str, expected: Reference) -> None:
    assert parse_reference(text, target="t") == expected


@pytest.mark.parametrize("text", ["", "./data", "azureml://nothing", "/subscriptions/s", "a:b:c", "azureml://datastores/d/paths/../../etc"])
def test_anything_else_is_refused_with_the_accepted_forms_or_the_reason(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_reference(text, target="properties.inputs.data.uri")
    assert "azureml:NAME:VERSION" in caught.value.message or "leaves its datastore" in caught.value.message


def test_a_job_writes_where_the_sdk_looks() -> None:
    assert default_output("j", "o").uri == "azureml://datastores/workspaceblobstore/paths/azureml/j/o/"
    assert job_artifacts("j").uri == "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.j/"
    assert default_output("j", "o").long_uri(WS).startswith("azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/")
    assert fill_name("azureml://datastores/d/paths/o/${{name}}/", "j7") == "azureml://datastores/d/paths/o/j7/"


def test_a_facade_address_is_the_blob_behind_it_whatever_the_host() -> None:
    assert facade_path("https://127.0.0.1:8450/blobstore/c/p%20q/x?sig=1", "/blobstore") == "c/p q/x"
    assert facade_path("https://example.org/else/c", "/blobstore") is None
    assert facade_path("https://[example.org/blobstore/c", "/blobstore") is None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("PT20M", timedelta(minutes=20)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("P1DT2H", timedelta(hours=26)),
        ("P1W", timedelta(weeks=1)),
    ],
)
def test_durations_are_read(text: str, span: timedelta) -> None:
    assert parse_duration(text, target="t") == span


@pytest.mark.parametrize("text", ["", "P", "PT", "20", "P1M", "PT1", "-PT1S", "P99999999999D"])
def test_what_is_no_duration_is_refused_by_field(text: str) -> None:
    with pytest.raises(Invalid, match=r"limits\.timeout"):
        parse_duration(text, target="limits.timeout")


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000)))
def test_a_duration_written_and_read_is_the_same(span: timedelta) -> None:
    assert parse_duration(format_duration(span), target="t") == pytest.approx(span, abs=timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", "0.1"), ("2", "2"), ("2Gi", str(2**31)), ("1500Mi", str(1500 * 2**20)), ("1e3", "1000"), (".5", "0.5"), ("1E", "1e18")],
)
def test_quantities_are_exact(text: str, number: str) -> None:
    assert parse_quantity(text, target="t") == Decimal(number)


def test_what_is_no_quantity_is_refused_by_field() -> None:
    with pytest.raises(Invalid, match=r"resources\.cpu: 'two'"):
        parse_quantity("two", target="resources.cpu")
