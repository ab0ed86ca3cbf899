"""The nouns and verbs that scripts written for `az ml` use, against the real service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.client_peers import Agent, Run, agent, client, moorage, profile, service, token

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]

DOCUMENTS = {
    "model": "name: NAME\nversion: '1'\npath: azureml://datastores/workspaceblobstore/paths/m/\ndescription: first\n",
    "data": "name: NAME\nversion: '1'\ntype: uri_folder\npath: azureml://datastores/workspaceblobstore/paths/d/\ndescription: first\n",
    "environment": "name: NAME\nversion: '1'\nimage: python:3.11\ndescription: first\n",
    "component": "name: NAME\nversion: '1'\ncommand: echo\nenvironment: azureml:AzureML-sklearn-1.5@latest\ndescription: first\n",
}
JOB = "type: command\ncommand: echo hello\nenvironment: {image: 'python:3.11'}\ncompute: azureml:local\ntags: {a: '1', b: '2'}\n"


def good(answer: tuple[int, str, str]) -> Any:
    """What a command printed, once it has succeeded."""
    code, out, err = answer
    assert code == 0, err
    return json.loads(out) if out.strip() else None


def document(folder: Path, text: str, name: str = "document.yml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("noun", sorted(DOCUMENTS))
def test_words_about_a_version_change_and_it_is_archived_and_restored(noun: str, moorage: Run, tmp_path: Path) -> None:
    name = f"{noun}-edited"
    good(moorage(noun, "create", "-f", document(tmp_path, DOCUMENTS[noun].replace("NAME", name))))
    given = ("update", "-n", name, "--label", "latest", "--set", "description=second", "--tags", "team=vision", "--set", "tags.n=1")
    made = good(moorage(noun, *given))
    assert (made["version"], made["description"], made["tags"]) == ("1", "second", {"team": "vision", "n": "1"})
    assert good(moorage(noun, "show", "-n", name, "-v", "1"))["description"] == "second"
    assert good(moorage(noun, "update", "-n", name, "-v", "1", "--set", "tags.team=null"))["tags"] == {"n": "1"}
    code, _, err = moorage(noun, "update", "-n", name, "-v", "1", "--set", "path=elsewhere")
    assert code == 2 and f"of a {noun} only " in err and "create a new version" in err

    for scope, listed in ((("-v", "1"), ("list", "-n", name)), ((), ("list",))):
        for verb, shown in (("archive", False), ("restore", True)):
            good(moorage(noun, verb, "-n", name, *scope))
            assert (name in [each["name"] for each in good(moorage(noun, *listed))]) is shown, (verb, scope)
    assert good(moorage(noun, "show", "-n", name, "-v", "1"))["description"] == "second"


def test_a_job_is_checked_submitted_written_down_and_renamed(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    path = document(tmp_path, JOB)
    assert good(moorage("job", "validate", "-f", path)) == {"result": "Succeeded", "errors": []}
    code, _, err = moorage("job", "validate", "-f", path, "--set", "compute=azureml:nowhere", "--set", "environment=azureml:none:1")
    assert code == 2 and "there is no compute target 'nowhere'; there are: local." in err and "there is no environment 'none'" in err
    assert good(moorage("job", "list", "--query", "[].name")) == [], "nothing was submitted"

    code, out, err = moorage("job", "create", "-f", path, "-n", "named", "--web", "--save-as", str(tmp_path / "job.json"), "--tags", "c=3")
    assert code == 0 and "--web: there is no web page to open yet; follow it with `moorage job stream -n named`" in err
    assert json.loads((tmp_path / "job.json").read_text()) == json.loads(out)
    assert good(moorage("job", "show", "-n", "named", "--web"))["tags"] == {"a": "1", "b": "2", "c": "3"}

    made = good(
        moorage(
            "job", "update", "-n", "named", "--set", "tags.a=9", "--set", "tags.b=null", "--set", "description=d", "--set", "display_name=x"
        )
    )
    assert (made["tags"], made["description"], made["display_name"]) == ({"a": "9", "c": "3"}, "d", "x")
    assert good(moorage("job", "show", "-n", "named"))["command"] == "echo hello"
    code, _, err = moorage("job", "update", "-n", "named", "--set", "command=other")
    assert code == 2 and "submit another job" in err
    assert good(moorage("job", "list", "--tag", "a=9", "--query", "[].name")) == ["named"]
    assert good(moorage("job", "list", "-p", "named")) == []


def test_the_services_of_a_job_are_shown_with_what_became_of_them(agent: Agent, moorage: Run, tmp_path: Path) -> None:
    path = document(tmp_path, JOB + "services: {notebook: {type: jupyter_lab}}\n")
    good(moorage("job", "create", "-f", path, "-n", "served"))
    shown = good(moorage("job", "show-services", "-n", "served"))
    assert (shown["notebook"]["status"], shown["notebook"]["error"]["error"]["code"]) == ("Failed", "NotYetImplemented")
    assert moorage("job", "show-services", "-n", "absent")[0] == 3
