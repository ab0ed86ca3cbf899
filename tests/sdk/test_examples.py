"""`scripts/examples` over a folder that has a document for every verdict. Slow: the SDK takes seconds to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sdk.examples import Verdict, examples, table
from tests.sdk.yaml_compare import reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCHEMA = "$schema: https://azuremlschemas.azureedge.net/latest/{}.schema.json\n"
COMMAND = "command: echo\nenvironment: azureml:e:1\ncompute: azureml:k8s\n"
DEPLOYMENT = "name: blue\nmodel: azureml:m:1\ninstance_count: 1\n"
DOCUMENTS = {
    "job.yml": (SCHEMA.format("commandJob") + COMMAND, Verdict.SAME),
    "bare.yaml": (COMMAND, Verdict.SAME),
    # The script gives --endpoint-name.
    "deployment.yml": (SCHEMA.format("kubernetesOnlineDeployment") + "type: kubernetes\n" + DEPLOYMENT, Verdict.SAME),
    "pipeline.yml": (
        SCHEMA.format("pipelineJob")
        + "type: pipeline\nsettings: {default_datestore: azureml:d}\njobs: {a: {type: command, compute: azureml:k, component: azureml:c:1}}\n",
        Verdict.ONLY_SDK,
    ),
    "component.yml": (SCHEMA.format("commandComponent") + "name: my-own\ncommand: echo\nenvironment: azureml:e:1\n", Verdict.ONLY_OURS),
    "wrong.yml": (SCHEMA.format("commandJob") + COMMAND + "computer: other\n", Verdict.NEITHER),
    "template.yml": (SCHEMA.format("commandJob") + "command: echo\nenvironment: azureml:e:1\ncompute: <your compute>\n", Verdict.UNFILLED),
    "data.yml": (SCHEMA.format("data") + "name: d\npath: ./not-there\n", Verdict.UNFILLED),
    "automl.yml": (SCHEMA.format("autoMLJob") + "type: automl\n", Verdict.OUT_OF_SCOPE),
    "spark.yml": (SCHEMA.format("pipelineJob") + "jobs: {a: {type: spark}}\n", Verdict.OUT_OF_SCOPE),
    "managed.yml": (SCHEMA.format("managedOnlineEndpoint") + "name: e-1\n", Verdict.OUT_OF_SCOPE),
}
OTHERS = {"conda.yml": "dependencies: [python=3.11]\n", "pod.yaml": "apiVersion: v1\nkind: Pod\n", "list.yml": "- a\n", "bad.yml": "a: [\n"}


def test_every_document_of_a_folder_gets_its_verdict(sdk_python: Path, tmp_path: Path) -> None:
    for name, (text, _) in DOCUMENTS.items():
        (tmp_path / name).write_text(text)
    for name, text in OTHERS.items():
        (tmp_path / name).write_text(text)
    with reading(sdk_python) as reader:
        found = list(examples(tmp_path, reader))
    assert {each.path: each.verdict for each in found} == {name: verdict for name, (_, verdict) in DOCUMENTS.items()}
    reasons = {each.path: each.reason for each in found}
    assert "settings.default_datestore: unknown field. Did you mean 'default_datastore'?" in reasons["pipeline.yml"]
    assert "Spark jobs are not supported yet" in reasons["spark.yml"]
    counts = dict(zip(Verdict, table(found).splitlines()[-1].split("|")[3:], strict=False))
    assert {verdict: int(cell) for verdict, cell in counts.items() if cell.strip()} == {
        Verdict.SAME: 3, Verdict.ONLY_SDK: 1, Verdict.ONLY_OURS: 1, Verdict.NEITHER: 1, Verdict.UNFILLED: 2, Verdict.OUT_OF_SCOPE: 3,
    }  # fmt: skip
