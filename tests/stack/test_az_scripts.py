"""Shell scripts in the manner of those written for the original, run word for word with the `az` that `moorage az install` makes.

Slow: whole processes, and each `az` is one of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.stack.conftest import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ENDPOINT = "$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineEndpoint.schema.json\nname: named-elsewhere\ncompute: azureml:local\nauth_mode: key\n"
DEPLOYMENT = """
name: blue
endpoint_name: named-elsewhere
type: kubernetes
code_configuration: {code: score, scoring_script: score.py}
environment: {image: python:3.11}
environment_variables: {COLOUR: COLOUR_OF_IT}
instance_type: defaultinstancetype
instance_count: 1
"""
SCORE = "import os\ndef init(): pass\ndef run(data): return os.environ['COLOUR']\n"
JOB = """
type: command
command: mkdir -p outputs && echo ${{inputs.word}} | tee outputs/said.txt ${{outputs.out}}/named.txt
inputs: {word: hello}
outputs: {out: {type: uri_folder}}
environment: {image: python:3.11}
compute: azureml:local
"""
SERVING = """
set -euo pipefail
az extension add -n ml -y
az account set -s "$(az account show --query id -o tsv)"
az configure --defaults group="$(az group list --query '[0].name' -o tsv)" workspace=default location=westeurope
az ml online-endpoint create --name $ENDPOINT_NAME -f endpoint.yml
az ml online-deployment create --name blue --endpoint $ENDPOINT_NAME -f blue.yml --all-traffic
az ml online-deployment get-logs --name blue --endpoint $ENDPOINT_NAME > log.txt
echo "blue: $(az ml online-endpoint invoke --name $ENDPOINT_NAME --request-file request.json)"
az ml online-deployment update --name blue --endpoint $ENDPOINT_NAME --set instance_count=2 tags.scaled=yes
az ml online-deployment create --name green --endpoint $ENDPOINT_NAME -f green.yml
echo "green: $(az ml online-endpoint invoke --name $ENDPOINT_NAME --deployment-name green --request-file request.json)"
az ml online-endpoint update --name $ENDPOINT_NAME --mirror-traffic "green=10"
echo "mirror: $(az ml online-endpoint show -n $ENDPOINT_NAME --query mirror_traffic.green)"
az ml online-endpoint update --name $ENDPOINT_NAME --mirror-traffic "green=0"
az ml online-endpoint update --name $ENDPOINT_NAME --traffic "blue=90 green=10"
echo "traffic: $(az ml online-endpoint show -n $ENDPOINT_NAME --query '[traffic.blue, traffic.green] | join(`/`, map(&to_string(@), @))' -o tsv)"
echo "replicas: $(az ml online-deployment show -n blue -e $ENDPOINT_NAME --query instance_count -o tsv)"
"""
TOKENS = """
set -euo pipefail
az ml online-endpoint update --name rollout --set auth_mode=aml_token > /dev/null
echo "token: $(az ml online-endpoint get-credentials --name rollout -o tsv --query accessToken)"
echo "expiry: $(az ml online-endpoint get-credentials --name rollout -o tsv --query expiryTimeUtc)"
echo "refresh: $(az ml online-endpoint get-credentials --name rollout -o tsv --query refreshAfterTimeUtc)"
"""
REVOKED = """
set -euo pipefail
az ml online-endpoint regenerate-keys --name rollout > /dev/null
echo "token: $(az ml online-endpoint get-credentials --name rollout -o tsv --query accessToken)"
"""
TRAINING = """
set -euo pipefail
run_id=$(az ml job create -f job.yml --set inputs.word=ahoy display_name=first --query name -o tsv)
az ml job show -n $run_id --web > shown.json
az ml job stream -n $run_id
status=$(az ml job show -n $run_id --query status -o tsv)
if [[ "$status" != "Completed" ]]; then echo "job ended as $status"; exit 1; fi
az ml job update -n $run_id --set display_name=renamed tags.team=vision tags.old=yes > /dev/null
az ml job update -n $run_id --remove tags.old --set tags.n=007 --force-string > /dev/null
echo "tags: $(az ml job show -n $run_id --query "join('/', [to_string(tags.n), to_string(tags.old)])" -o tsv)"
echo "name: $(az ml job show -n $run_id --query "join('/', [display_name, tags.team])" -o tsv)"
az ml job download -n $run_id --all --download-path got
az ml model create --name spoken --version 1 --path azureml://jobs/$run_id/outputs/out --type custom_model > /dev/null
az ml model download --name spoken --version 1 --download-path models
if az ml job show -n absent 2> absent.txt; then exit 1; else echo "absent: $?"; fi
az k8s-extension show --name moorage --cluster-name local --cluster-type connectedClusters --query provisioningState -o tsv
"""
TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {"workspaceName": {"type": "string"}, "endpointName": {"type": "string"}, "image": {"type": "string", "defaultValue": "python:3.11"}},
    "resources": [
        {
            "type": "Microsoft.MachineLearningServices/workspaces/environments/versions",
            "apiVersion": "2024-04-01",
            "name": "[concat(parameters('workspaceName'), '/from-template/1')]",
            "properties": {"image": "[parameters('image')]"},
        },
        {
            "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
            "apiVersion": "2024-04-01",
            "name": "[concat(parameters('workspaceName'), '/', parameters('endpointName'))]",
            "location": "[resourceGroup().location]",
            "kind": "K8S",
            "properties": {
                "authMode": "Key",
                "compute": "[resourceId('Microsoft.MachineLearningServices/workspaces/computes', parameters('workspaceName'), 'local')]",
            },
        },
    ],
    "outputs": {
        "uri": {
            "type": "string",
            "value": "[reference(resourceId('Microsoft.MachineLearningServices/workspaces/onlineEndpoints', parameters('workspaceName'), parameters('endpointName'))).scoringUri]",
        }
    },
}  # fmt: skip


def script(stack: Stack, folder: Path, text: str, **variables: str) -> dict[str, str]:
    """Run a script with our `az` first on PATH; its `name: value` lines."""
    if not (stack.home / "bin" / "az").exists():
        stack.ok("az", "install", str(stack.home / "bin"))
    environment = stack.environment | {"PATH": f"{stack.home / 'bin'}:{os.environ['PATH']}", **variables}
    ran = subprocess.run(["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=450, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{stack.logs()}"
    return dict(line.split(": ", 1) for line in ran.stdout.splitlines() if ": " in line and not line.startswith(" "))


def scored(uri: str, credential: str) -> tuple[int, object]:
    """What deployment `green` answers to a caller with a key or token: the status, and the body when it is 200."""
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json", "azureml-model-deployment": "green"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(uri, data=b"{}", headers=headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, None


def test_a_rollout_script_runs_unchanged(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "score.py").write_text(SCORE)
    (tmp_path / "endpoint.yml").write_text(ENDPOINT)
    (tmp_path / "request.json").write_text("{}")
    for colour in ("blue", "green"):
        (tmp_path / f"{colour}.yml").write_text(DEPLOYMENT.replace("COLOUR_OF_IT", colour))
    said = script(stack, tmp_path, SERVING, ENDPOINT_NAME="rollout")
    assert {name: said[name].strip('"') for name in ("blue", "green", "mirror", "traffic", "replicas")} == {
        "blue": "blue",
        "green": "green",
        "mirror": "10",
        "traffic": "90/10",
        "replicas": "2",
    }
    found = script(
        stack,
        tmp_path,
        'echo "key: $(az ml online-endpoint get-credentials --name rollout -o tsv --query primaryKey)"\n'
        'echo "uri: $(az ml online-endpoint show -n rollout --query scoring_uri -o tsv)"',
    )
    assert scored(found["uri"], found["key"]) == (200, "green")
    tokens = script(stack, tmp_path, TOKENS)
    assert int(tokens["refresh"]) < int(tokens["expiry"])
    # The command waits for the cluster to have it, not for the router to have read it.
    stack.until(lambda: scored(found["uri"], tokens["token"]) == (200, "green"), "a token opens the endpoint")
    stack.until(lambda: scored(found["uri"], found["key"])[0] == 401, "its keys do no more")
    assert stack.ok("online-endpoint", "invoke", "-n", "rollout", "-d", "green", "-r", str(tmp_path / "request.json")).json == "green"
    os.kill(stack.pid("server"), signal.SIGSTOP)
    try:
        assert scored(found["uri"], tokens["token"]) == (200, "green"), "the router needs no workspace service"
    finally:
        os.kill(stack.pid("server"), signal.SIGCONT)
    renewed = script(stack, tmp_path, REVOKED)
    stack.until(lambda: scored(found["uri"], tokens["token"])[0] == 401, "the token is revoked")
    assert scored(found["uri"], renewed["token"]) == (200, "green")
    script(stack, tmp_path, "az ml online-endpoint delete --name rollout --yes --no-wait")
    stack.until(lambda: stack.run("online-endpoint", "show", "-n", "rollout").code == 3, "the endpoint is gone")


def test_a_training_script_runs_unchanged(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(JOB)
    said = script(stack, tmp_path, TRAINING)
    assert said["name"] == "renamed/vision"
    assert said["tags"] == "007/null"
    assert said["absent"] == "3"
    assert (tmp_path / "got" / "named-outputs" / "out" / "named.txt").read_text() == "ahoy\n"
    assert (tmp_path / "got" / "artifacts" / "outputs" / "said.txt").read_text() == "ahoy\n"
    assert [path.read_text() for path in (tmp_path / "models" / "spoken").rglob("named.txt")] == ["ahoy\n"]


def test_a_template_is_put_and_remembered(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TEMPLATE))
    said = script(
        stack,
        tmp_path,
        "set -euo pipefail\n"
        "az deployment group create --name one --template-file t.json --parameters workspaceName=default endpointName=templated > made.json\n"
        'echo "state: $(az deployment group show -n one --query properties.provisioningState -o tsv)"\n'
        'echo "image: $(az ml environment show -n from-template -v 1 --query image -o tsv)"\n'
        'echo "uri: $(az ml online-endpoint show -n templated --query scoring_uri -o tsv)"',
    )
    made = json.loads((tmp_path / "made.json").read_text())
    assert (said["state"], said["image"]) == ("Succeeded", "python:3.11")
    assert made["properties"]["outputs"]["uri"]["value"] == said["uri"]
    assert len(made["properties"]["outputResources"]) == 2


def test_nothing_but_our_az_was_used(stack: Stack) -> None:
    assert shutil.which("az", path=f"{stack.home / 'bin'}:{os.environ['PATH']}") == str(stack.home / "bin" / "az")
