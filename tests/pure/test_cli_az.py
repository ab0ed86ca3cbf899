"""The `az` shim without a service: its command line, its templates, its executable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.cli.az.deployment import values
from moorage.cli.az.expressions import evaluate
from moorage.cli.az.main import application, main
from moorage.cli.az.template import Scope, plan
from moorage.cli.az.words import expand
from moorage.cli.commands import unabbreviated
from moorage.cli.main import main as moorage
from moorage.errors import Invalid

SCOPE = Scope("sub", "group")
WORKSPACE = "Microsoft.MachineLearningServices/workspaces"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MOORAGE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))
    # `main` sets it; this puts it back.
    monkeypatch.setenv("MOORAGE_OUTPUT", "json")


def az(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()
    return int(code), out, err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ml job create --set a=1 b=2 -f x.yml", "ml job create --set a=1 --set b=2 -f x.yml"),
        ("configure -d group=g workspace=w", "configure -d group=g -d workspace=w"),
        ("ml job download -d x", "ml job download -d x"),
        ("k8s-extension create --config a=1 b=2 --scope cluster", "k8s-extension create --config a=1 --config b=2 --scope cluster"),
        ("deployment group create -p a=1 @p.json", "deployment group create -p a=1 -p @p.json"),
        ("ml model create -n x -p ./model", "ml model create -n x -p ./model"),
        ("ml job list -o yamlc", "ml job list -o yaml"),
        ("ml job create --set", "ml job create --set"),
        ("ml job create --set a=-1 --set b=2", "ml job create --set a=-1 --set b=2"),
    ],
)
def test_lists_after_one_option_become_repeated_options(line: str, expected: str) -> None:
    assert expand(line.split()) == expected.split()


@given(st.lists(st.text(min_size=1).filter(lambda word: word not in ("yamlc",)), max_size=8))
def test_words_without_list_options_stay_as_they_are(words: list[str]) -> None:
    plain = ["ml", *(word for word in words if not word.startswith("-"))]
    assert expand(plain) == plain
    assert expand(expand(plain)) == expand(plain)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("plain", "plain"),
        ("[[not one]", "[not one]"),
        ("[concat('a', '/', 'it''s')]", "a/it's"),
        ("[concat(createArray(1), createArray(2, 3))]", [1, 2, 3]),
        ("[format('{0}-{1}{{}}', 'x', 7)]", "x-7{}"),
        ("[if(equals('A', 'a'), 1, 2)]", 1),
        ("[if(and(true(), not(false())), createObject('k', 'v').K, '')]", "v"),
        ("[split('a,b', ',')[1]]", "b"),
        ("[if(contains(createObject('a', 1), 'b'), createObject('a', 1).b, 'none')]", "none"),
        ("[or(true(), first(1))]", True),
        ("[and(false(), createObject().x)]", False),
        ("[coalesce('x', split('a', ',')[9])]", "x"),
        ("[if(true(), if(false(), first(1), 2), first(1))]", 2),
        ("[toLower(substring('HELLO', 1, 3))]", "ell"),
        ("[string(createObject('a', 1))]", '{"a":1}'),
        ("[int('7')]", 7),
        ("[length(union(createArray(1, 2), createArray(2, 3)))]", 3),
        ("[uniqueString('a', 'b')]", "3b5v2nb2ovgqb"),
    ],
)
def test_expressions(expression: str, expected: Any) -> None:
    found = evaluate(expression, {})
    if "unique" in expression:
        # As long as Azure's, and the same each time.
        assert len(found) == 13 and found == evaluate(expression, {}) and found != evaluate("[uniqueString('a', 'c')]", {})
    else:
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("[concat('a'", "'a'"),
        ("[nonsense(1)]", "'nonsense' is not supported"),
        ("[concat('a') 'b']", "one too many"),
        ("[first(1)]", "does not take these arguments"),
        ("[createObject('a', 1).b]", "there is no 'b'; there are a"),
        ("[" + "concat(" * 100 + ")" * 100 + "]", "nested too deeply"),
        ("[concat('a';)]", "is not understood"),
        ("[div(1, 0)]", "div() does not take these arguments"),
        ("[mul('a', 3)]", "whole numbers are expected"),
        ("[padLeft('a', 10001)]", "at most 10000 characters"),
        ("[" + "9" * 5000 + "]", "a number in it is too long"),
    ],
)
def test_wrong_expressions_are_refused_with_what_is_wrong(expression: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        evaluate(expression if expression.endswith("]") else f"{expression}]", {})
    assert says in refused.value.message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text().filter(lambda text: not text.startswith("[")), st.lists))
def test_what_has_no_expression_stays_as_it_is(value: Any) -> None:
    assert evaluate(value, {}) == value


def template(**more: Any) -> dict[str, Any]:
    return {
        "parameters": {
            "workspace": {"type": "string"},
            "count": {"type": "int", "defaultValue": 2},
            "key": {"type": "securestring", "defaultValue": ""},
        },
        "variables": {"endpoint": "[concat(variables('prefix'), '-end')]", "prefix": "p"},
        "resources": [
            {
                "type": f"{WORKSPACE}/onlineEndpoints/deployments",
                "apiVersion": "2024-04-01",
                "name": "[concat(parameters('workspace'), '/', variables('endpoint'), '/d', copyIndex(1))]",
                "copy": {"name": "all", "count": "[parameters('count')]"},
                "dependsOn": [f"[resourceId('{WORKSPACE}/models/versions', parameters('workspace'), 'm', '1')]"],
                "properties": {"n": "[copyIndex()]"},
            },
            {"type": f"{WORKSPACE}/models/versions", "name": "[concat(parameters('workspace'), '/m/1')]", "properties": {}},
            {
                "type": f"{WORKSPACE}/onlineEndpoints",
                "name": "[concat(parameters('workspace'), '/p-end')]",
                "kind": "Managed",
                "properties": {},
            },
            {"type": f"{WORKSPACE}/jobs", "name": "w/never", "condition": "[equals(parameters('count'), 99)]"},
        ],
        "outputs": {"uri": {"type": "string", "value": f"[reference(resourceId('{WORKSPACE}/onlineEndpoints', 'w', 'p-end')).scoringUri]"}},
        **more,
    }


def test_a_template_becomes_resources_in_the_order_of_what_they_need() -> None:
    found = plan(template(), {"WORKSPACE": "w"}, SCOPE, "x")
    base = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/w"
    assert [each.id for each in found.resources] == [
        f"{base}/models/m/versions/1",
        f"{base}/onlineEndpoints/p-end",
        f"{base}/onlineEndpoints/p-end/deployments/d1",
        f"{base}/onlineEndpoints/p-end/deployments/d2",
    ]
    assert [len(each.needs) for each in found.resources] == [0, 0, 2, 2]
    assert found.resources[2].needs == (f"{base}/models/m/versions/1", f"{base}/onlineEndpoints/p-end")
    assert found.resources[1].body == {"kind": "Managed", "properties": {}}
    assert [each.body["properties"]["n"] for each in found.resources[2:]] == [0, 1]
    assert found.outputs(lambda id: {"scoringUri": id})["uri"]["value"] == f"{base}/onlineEndpoints/p-end"


def test_secure_parameters_are_shown_nowhere() -> None:
    found = plan(template(), {"workspace": "w", "key": "sesame"}, SCOPE, "x")
    assert "sesame" not in json.dumps(found.shown)
    assert found.shown["workspace"] == {"type": "string", "value": "w"}
    told = plan(
        template(outputs={"key": {"type": "secureString", "value": "[parameters('key')]"}}), {"workspace": "w", "key": "sesame"}, SCOPE, "x"
    )
    assert told.outputs(lambda id: {}) == {"key": {"type": "secureString"}}


@pytest.mark.parametrize(
    ("changes", "parameters", "says"),
    [
        ({}, {}, "'workspace' has no value; give it with --parameters workspace=VALUE"),
        ({}, {"workspace": "w", "other": 1}, "no parameter 'other'"),
        ({}, {"workspace": "w", "count": "many"}, "'count' must be of the type int"),
        ({"resources": [{"type": "Microsoft.Storage/storageAccounts", "name": "s"}]}, {"workspace": "w"}, "'Microsoft.Storage/storageAccounts' are not served"),
        ({"resources": [{"type": f"{WORKSPACE}/jobs", "name": "w"}]}, {"workspace": "w"}, "named by 2 parts"),
        ({"variables": {"a": "[variables('b')]", "b": "[variables('a')]"}, "resources": [{"type": f"{WORKSPACE}/jobs", "name": "[variables('a')]"}]}, {"workspace": "w"}, "defined by itself"),
        ({"resources": None}, {"workspace": "w"}, "no list of 'resources'"),
        ({"resources": [1]}, {"workspace": "w"}, "resources[0] must be an object"),
        ({"resources": [{"copy": [1]}]}, {"workspace": "w"}, "resources[0].copy must be an object"),
        ({"resources": [{"dependsOn": "w"}]}, {"workspace": "w"}, "resources[0].dependsOn must be a list"),
        ({"parameters": [1]}, {}, "parameters must be an object"),
        ({"parameters": {"a": 1}}, {}, "parameters.a must be an object"),
        ({"parameters": {"a": {"allowedValues": "x"}}}, {"a": "x"}, "parameters.a.allowedValues must be a list"),
        ({"variables": [1]}, {"workspace": "w"}, "variables must be an object"),
        ({"outputs": {"a": 1}}, {"workspace": "w"}, "outputs.a must be an object"),
        ({"resources": [{"type": f"{WORKSPACE}/jobs", "name": "w/a", "dependsOn": ["w/b"]}, {"type": f"{WORKSPACE}/jobs", "name": "w/b", "dependsOn": ["w/a"]}]}, {"workspace": "w"}, "depends on itself"),
    ],
)  # fmt: skip
def test_wrong_templates_are_refused_with_what_is_wrong(changes: dict[str, Any], parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        plan(template(**changes), parameters, SCOPE, "x")
    assert says in refused.value.message


def test_parameters_come_from_words_files_and_json(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"$schema": "x", "contentVersion": "1", "parameters": {"a": {"value": 1}, "b": {"value": "file"}}}))
    text = tmp_path / "t.txt"
    text.write_text("long")
    assert values([f"@{file}", "b=word=with=signs", f"c=@{text}", '{"d": {"value": [1]}}']) == {
        "a": 1,
        "b": "word=with=signs",
        "c": "long",
        "d": [1],
    }
    assert values([str(file)])["b"] == "file"
    with pytest.raises(Invalid):
        values([str(tmp_path / "absent.json")])


def test_every_command_of_the_shim_loads_and_has_help(capfd: pytest.CaptureFixture[str]) -> None:
    def walk(command: click.Command, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            return [path for name in command.list_commands(context) for path in walk(command.get_command(context, name), (*words, name))]  # type: ignore[arg-type]
        return [words]

    every = walk(application, ())
    for needed in (
        "ml job create",
        "ml online-endpoint invoke",
        "k8s-extension create",
        "configure",
        "account show",
        "deployment group create",
    ):
        assert tuple(needed.split()) in every
    for path in every:
        code, out, err = az(capfd, *path, "--help")
        assert (code, err) == (0, ""), path
        assert out.startswith(f"Usage: az {' '.join(path)}")


def test_scripts_that_look_for_az_and_its_part_ml_find_both(capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("--version", "-v"):
        code, out, err = az(capfd, word)
        assert (code, err) == (0, "")
        assert {"moorage", "ml"} <= {line.split()[0] for line in out.splitlines()}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--endpoint", "--endpoint-name"),
        ("--endpoint=x", "--endpoint-name=x"),
        ("--no-wait", "--no-wait"),
        ("--no", "--no"),
        ("--n", "--n"),
        ("--e", "--endpoint-name"),
        ("--none", "--none"),
        ("plain", "plain"),
    ],
)
def test_the_beginning_of_one_option_is_the_option(word: str, expected: str) -> None:
    assert unabbreviated(word, ["--endpoint-name", "--name", "--no-wait", "--no-stop"]) == expected


def test_defaults_are_the_profiles(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = az(capfd, "configure", "--defaults", "group=g", "workspace=w", "location=here")
    assert code == 0 and "'location' has no meaning here" in err
    assert az(capfd, "account", "set", "--subscription", "s")[0] == 0
    assert [each["value"] for each in json.loads(az(capfd, "configure", "-l")[1])] == ["g", "w"]
    capfd.readouterr()
    assert moorage(["config", "show", "--query", "[?name=='subscription'].value | [0]", "-o", "tsv"]) == 0
    assert capfd.readouterr().out == "s\n"
    assert az(capfd, "account", "show")[0] == 5, "nobody is signed in"


def test_the_executable_runs_and_spares_what_is_not_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "with a space" / "bin"
    assert moorage(["az", "install", str(folder)]) == 0
    found = subprocess.run([folder / "az", "version", "--query", "moorage", "-o", "tsv"], capture_output=True, text=True, check=True)
    assert found.stdout.strip()
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json.py", "moorage.py", "click.py"):
        (here / name).write_text("raise SystemExit('a file of the folder was taken for a module')\n")
    subprocess.run([folder / "az", "version"], cwd=here, capture_output=True, check=True)
    assert moorage(["az", "install", str(folder)]) == 0, "again"
    (folder / "az").write_text("#!/bin/sh\n")
    assert moorage(["az", "install", str(folder)]) == 4
    assert moorage(["az", "uninstall", str(folder)]) == 4
    assert (folder / "az").read_text() == "#!/bin/sh\n"
    assert moorage(["az", "install", str(folder), "--force"]) == 0
    assert moorage(["az", "uninstall", str(folder)]) == 0
    assert not (folder / "az").exists()
    capfd.readouterr()
    (tmp_path / "file").touch()
    assert moorage(["az", "install", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ml registry list -g g", "`az ml environment create --registry-name azureml`"),
        ("ml feature-store show --name f --resource-group g", "feature stores are not supported yet"),
        ("ml feature-set create --file f.yml", "feature stores are not supported yet"),
        ("ml connection create --file c.yml", "pass secrets through the cluster"),
        ("ml serverless-endpoint create -f e.yml", "`az ml online-endpoint create`"),
    ],
)
def test_nouns_without_a_counterpart_are_refused_with_the_reason(line: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert reason in capfd.readouterr().err


def test_providers_are_registered_for_scripts_that_wait_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["provider", "show", "--namespace", "Microsoft.Kubernetes", "--query", "registrationState", "-o", "tsv"]) == 0
    assert capfd.readouterr().out == "Registered\n"


def test_errors_are_sentences_as_those_of_az(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["account", "show"], ["nosuch"], ["account", "show", "-o", "json"]):
        assert az(capfd, *words)[2].startswith("error: ")


def test_the_shim_never_imports_the_sdk() -> None:
    script = "import sys; from moorage.cli.az.main import main; main(['ml', 'job', '--help']); print([m for m in sys.modules if m.startswith('azure')])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
