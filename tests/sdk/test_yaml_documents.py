"""Documents as the real SDK reads them: the corpus beside this file, and generated ones. Slow: the SDK takes seconds to start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind, known
from moorage.wire.documents.support import FIELDS
from tests.fixtures.documents import dotted, mappings, with_field
from tests.sdk.yaml_compare import Reader, differences, ours, reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "documents"
CORPUS = sorted(path for path in HERE.glob("*/*.yml") if path.parent.name in set(Kind) and path.name != "conda.yml")


@pytest.fixture(scope="module")
def sdk(sdk_python: Path) -> Iterator[Reader]:
    with reading(sdk_python) as reader:
        yield reader


@pytest.mark.parametrize("path", CORPUS, ids=[f"{path.parent.name}-{path.stem}" for path in CORPUS])
def test_a_document_means_what_it_means_to_the_sdk(sdk: Reader, path: Path) -> None:
    kind = Kind(path.parent.name)
    theirs = sdk.ask(kind=kind.value, path=str(path))
    assert "refusal" not in theirs, theirs
    assert differences(kind, theirs["body"], ours(kind, path)) == []


def test_every_field_the_sdk_knows_is_read_or_named_in_the_list(sdk: Reader) -> None:
    missing = [
        f"{kind}.{field}"
        for kind, fields in sdk.ask(fields=True).items()
        for field in fields
        if field not in known(Kind(kind)) and field not in FIELDS[kind]
    ]
    assert missing == []


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9 .-]{0,12}[A-Za-z0-9]", fullmatch=True).filter(lambda text: text.lower() not in _YAML_WORDS)
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}
TEXTS = st.one_of(WORDS, st.integers(0, 99).map(str))
LITERALS = st.one_of(WORDS, st.integers(-9, 10**6), st.booleans(), st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3)))
REFERENCES = st.sampled_from(["azureml:d:1", "azureml:d.x-2:10", "azureml:d@latest", "azureml://datastores/workspaceblobstore/paths/p/"])
ENVIRONMENTS = st.sampled_from(
    ["azureml:e:1", "azureml:e@latest", "azureml:AzureML-x-1.0:3", "azureml://registries/azureml/environments/x/versions/2"]
)
INPUTS = st.dictionaries(
    NAMES,
    st.one_of(
        LITERALS,
        st.fixed_dictionaries(
            {"type": st.sampled_from(["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model"]), "path": REFERENCES},
            optional={"mode": st.sampled_from(["ro_mount", "download", "direct"])},
        ),
    ),
    max_size=3,
)
OUTPUTS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["uri_file", "uri_folder", "mlflow_model"])},
        optional={"mode": st.sampled_from(["rw_mount", "upload"]), "path": st.just("azureml://datastores/workspaceblobstore/paths/o")},
    ),
    max_size=2,
)
DISTRIBUTIONS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["pytorch", "mpi"]), "process_count_per_instance": st.integers(1, 8)}),
    st.fixed_dictionaries(
        {"type": st.just("tensorflow"), "worker_count": st.integers(1, 4)}, optional={"parameter_server_count": st.integers(0, 2)}
    ),
)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "instance_count": st.integers(1, 9),
        "instance_type": NAMES,
        "shm_size": st.sampled_from(["2g", "512m"]),
        "docker_args": st.just("--x"),
    },
)
ABOUT = {"display_name": WORDS, "experiment_name": NAMES, "description": WORDS, "tags": st.dictionaries(NAMES, TEXTS, max_size=2)}
TRIAL = {"environment_variables": st.dictionaries(NAMES, TEXTS, max_size=2), "distribution": DISTRIBUTIONS, "resources": RESOURCES}
COMMANDS = st.fixed_dictionaries(
    {"type": st.just("command"), "command": WORDS, "environment": ENVIRONMENTS},
    optional=ABOUT
    | TRIAL
    | {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "compute": st.just("azureml:k8s"),
        "limits": st.fixed_dictionaries({"timeout": st.integers(1, 500).map(lambda minutes: minutes * 60)}),
        "queue_settings": st.fixed_dictionaries({"job_tier": st.sampled_from(["spot", "standard"])}),
        "identity": st.sampled_from([{"type": "managed"}, {"type": "aml_token"}, {"type": "user_identity"}]),
    },
)
NUMBERS = st.integers(1, 99)
SPACES = st.one_of(
    st.fixed_dictionaries({"type": st.just("choice"), "values": st.lists(st.one_of(NUMBERS, WORDS), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"type": st.sampled_from(["uniform", "loguniform"]), "min_value": NUMBERS, "max_value": NUMBERS}),
    st.fixed_dictionaries({"type": st.sampled_from(["quniform", "qloguniform"]), "min_value": NUMBERS, "max_value": NUMBERS, "q": NUMBERS}),
    st.fixed_dictionaries({"type": st.sampled_from(["normal", "lognormal"]), "mu": NUMBERS, "sigma": NUMBERS}),
    st.fixed_dictionaries({"type": st.just("randint"), "upper": NUMBERS}),
)
SWEEPS = st.fixed_dictionaries(
    {
        "type": st.just("sweep"),
        "trial": st.fixed_dictionaries({"command": WORDS, "environment": ENVIRONMENTS}, optional=TRIAL),
        "search_space": st.dictionaries(NAMES, SPACES, min_size=1, max_size=3),
        "objective": st.fixed_dictionaries({"goal": st.sampled_from(["maximize", "minimize"]), "primary_metric": NAMES}),
        "limits": st.fixed_dictionaries({"max_total_trials": NUMBERS}, optional={"max_concurrent_trials": NUMBERS}),
        "sampling_algorithm": st.sampled_from(["random", "grid", "bayesian", {"type": "random", "seed": 3, "rule": "sobol"}]),
    },
    optional=ABOUT
    | {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "early_termination": st.one_of(
            st.fixed_dictionaries({"type": st.just("bandit"), "slack_factor": st.just(0.1)}, optional={"delay_evaluation": NUMBERS}),
            st.fixed_dictionaries({"type": st.just("median_stopping")}, optional={"evaluation_interval": NUMBERS}),
            st.fixed_dictionaries({"type": st.just("truncation_selection"), "truncation_percentage": NUMBERS}),
        ),
    },
)
DEPLOYMENTS = st.fixed_dictionaries(
    {"type": st.just("kubernetes"), "name": st.just("blue"), "endpoint_name": st.just("digits"), "model": st.just("azureml:m:1")},
    optional={
        "instance_type": NAMES,
        "instance_count": NUMBERS,
        "environment_variables": st.dictionaries(NAMES, TEXTS, max_size=2),
        "request_settings": st.fixed_dictionaries(
            {}, optional={"request_timeout_ms": NUMBERS.map(lambda n: n * 1000), "max_concurrent_requests_per_instance": NUMBERS}
        ),
        "liveness_probe": st.fixed_dictionaries(
            {}, optional={"initial_delay": NUMBERS, "period": NUMBERS, "timeout": NUMBERS, "failure_threshold": NUMBERS}
        ),
        "resources": st.fixed_dictionaries({"requests": st.fixed_dictionaries({"cpu": st.just("1"), "memory": st.just("1Gi")})}),
    },
)
GENERATED = st.one_of(
    st.tuples(st.just(Kind.JOB), COMMANDS),
    st.tuples(st.just(Kind.JOB), SWEEPS),
    st.tuples(st.just(Kind.DEPLOYMENT), DEPLOYMENTS),
)
# The same examples every time, so that the same code gets the same answer; to look further, raise the number and leave derandomize out.
# Nothing is shrunk: each example asks another process, and the documents are small as they are.
QUICKLY = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(made=GENERATED)
@QUICKLY
def test_generated_documents_mean_what_they_mean_to_the_sdk(sdk: Reader, tmp_path: Path, made: tuple[Kind, Manifest]) -> None:
    kind, document = made
    path = tmp_path / "document.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    theirs = sdk.ask(kind=kind.value, path=str(path))
    assert "refusal" not in theirs, theirs
    assert differences(kind, theirs["body"], ours(kind, path)) == []


# Not numbers in place of text, nor nothing at all: `version: 1.10` is read as it was written, and an empty field as one that was left out.
WRONG = st.sampled_from([[1], {"a": {"b": 1}}, "no such choice"])


@given(made=GENERATED, data=st.data(), value=WRONG)
@QUICKLY
def test_what_the_sdk_refuses_we_refuse(
    sdk: Reader, tmp_path: Path, made: tuple[Kind, Manifest], data: st.DataObject, value: object
) -> None:
    kind, document = made
    place = data.draw(st.sampled_from(sorted(set(document) - {"type"})))
    inner = document[place]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        document = {**document, place: {**inner, data.draw(st.sampled_from(sorted(inner))): value}}
    else:
        document = {**document, place: value}
    path = tmp_path / "document.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    if "refusal" not in sdk.ask(kind=kind.value, path=str(path)):
        return
    with pytest.raises(Invalid, match=re.escape(str(path))):
        ours(kind, path)


@pytest.mark.parametrize("path", CORPUS, ids=[f"{path.parent.name}-{path.stem}" for path in CORPUS])
def test_a_field_more_that_the_sdk_refuses_is_refused(sdk: Reader, path: Path, tmp_path: Path) -> None:
    """In every mapping of the document; the SDK passes over a few that we refuse."""
    folder = Path(shutil.copytree(path.parent, tmp_path / path.parent.name))
    document, accepted = yaml.safe_load(path.read_text(encoding="utf-8")), []
    for number, place in enumerate(mappings(document)):
        changed = folder / f"changed-{number}.yml"
        changed.write_text(yaml.safe_dump(with_field(document, place, "zzz_zzz", "1"), sort_keys=False), encoding="utf-8")
        if "refusal" in sdk.ask(kind=path.parent.name, path=str(changed)):
            try:
                ours(Kind(path.parent.name), changed)
                accepted.append(dotted(place))
            except Invalid:
                pass
    assert accepted == []
