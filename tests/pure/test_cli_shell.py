"""The command line as a shell sees it: exit codes, what goes to which stream, formats, help."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest

from moorage import clock
from moorage.cli import output, tables
from moorage.cli.az.main import application as az
from moorage.cli.az.words import expand
from moorage.cli.commands import Command, Process
from moorage.cli.exits import Exit, exit_code
from moorage.cli.home import Home
from moorage.cli.main import application, main
from moorage.cli.online_endpoint import shares
from moorage.cli.progress import Lines
from moorage.cli.session import Session
from moorage.client.connection import Client
from moorage.client.profile import Profile
from moorage.client.transport import unreachable
from moorage.errors import Conflict, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable

ROOT = Path(__file__).parent.parent.parent


def moorage(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()
    return int(code), out, err


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MoorageError("x"), Exit.FAILED),
        (Invalid("x"), Exit.USAGE),
        (NotFound("x"), Exit.NOT_FOUND),
        (Conflict("x"), Exit.CONFLICT),
        (Unavailable("x"), Exit.UNREACHABLE),
        (Unauthenticated("x"), Exit.UNREACHABLE),
        (Forbidden("x"), Exit.UNREACHABLE),
        (Throttled("x"), Exit.FAILED),
        (Unavailable("x", code="CannotReachEndpoint"), Exit.FAILED),
    ],
)
def test_every_error_has_its_exit_code(error: MoorageError, code: Exit) -> None:
    assert exit_code(error) is code


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jbo"], "'moorage' has no command 'jbo'. Did you mean 'job'? See `moorage --help`."),
        (["job", "lst"], "'moorage job' has no command 'lst'. Did you mean 'list'? See `moorage job --help`."),
        (["job", "show"], "Missing option '--name' / '-n'. See `moorage job show --help`."),
        (["job", "show", "--nam", "x"], "No such option"),
        (["job", "list", "-o", "xml"], "'xml' is not one of"),
        (["job", "list", "-r", "0"], "0 is not in the range"),
        (["job", "create", "-f", "absent.yml"], "absent.yml cannot be read: No such file or directory."),
        (["online-endpoint", "update"], "give --name or --file."),
        (["model", "create"], "give --file with the YAML document of the model, or its fields as options."),
        (["compute", "attach", "--type", "AmlCompute", "-n", "x"], "computes of type 'AmlCompute' cannot be attached"),
        (
            ["compute", "attach", "-n", "x"],
            '--resource-id is missing: the cluster\'s id; `moorage cluster list --query "[].id" -o tsv` shows',
        ),
        (["completion"], "Choose from: bash, fish, zsh. See `moorage completion --help`."),
        (["config", "set", "colour=red"], "'colour' is no setting"),
        (["config", "set", "url=nowhere"], "'nowhere' is no address"),
        (["config", "show", "--query", "[0"], "Incomplete expression. JMESPath is described at jmespath.org."),
        (["up", "--port", "7001", "--api-port", "7001"], "--port and --api-port are both 7001"),
        (["up", "--nodes", "0"], "--nodes: 0 is not a number from 1 to 20."),
        (["up", "--nodes", "absent.yaml"], "absent.yaml cannot be read"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_message(capfd: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    code, out, err = moorage(capfd, *words)
    assert (code, out) == (2, "")
    assert expected in err and "Traceback" not in err


def test_without_a_service_the_exit_code_is_5_and_the_remedy_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = moorage(capfd, "job", "list")
    assert (code, out) == (5, "")
    assert "`moorage up` starts one on this machine" in err


def test_who_waits_for_a_service_that_is_not_there_is_told_how_to_start_it() -> None:
    told: list[str] = []
    profile = Profile(url="https://127.0.0.1:1", subscription="s", resource_group="g", workspace="w")

    def refused() -> None:
        raise unreachable(profile.url, OSError("Connection refused"))

    with Client(profile, tell=told.append, patience=timedelta(0)) as client, pytest.raises(Unavailable):
        client.patiently(refused)
    (line,) = told
    assert line.startswith("no contact with the workspace service (cannot reach") and "; trying for 0.0 s. " in line
    assert line.endswith("`moorage status` shows whether it runs here, `moorage up` starts it.")


def test_errors_are_json_where_json_is_asked_for(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = tmp_path / "train.yml"
    document.write_text("type: command\nfoo: 1\n")
    code, out, err = moorage(capfd, "job", "create", "-f", str(document), "-o", "json")
    assert (code, out) == (2, "")
    error = json.loads(err)["error"]
    assert error["code"] == "ValidationError"
    assert [detail["target"] for detail in error["details"]] == ["foo", "command", "environment"]


def test_a_destructive_command_without_a_terminal_asks_for_yes(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code, _, err = moorage(capfd, "online-endpoint", "delete", "-n", "digits")
    assert code == 2 and "give --yes" in err


def test_a_state_folder_that_is_none_is_refused_and_left_alone(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "file"))
    code, _, err = moorage(capfd, "up")
    assert code == 2 and "cannot be made: Not a directory. Set MOORAGE_HOME" in err
    code, _, err = moorage(capfd, "down")
    assert code == 3 and "is not a Moorage state folder" in err
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "folder"))
    assert moorage(capfd, "down")[0] == 3
    assert not list((tmp_path / "folder").iterdir())


def test_a_purge_that_ended_half_way_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    (home.cluster / "state.db").write_text("x")

    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(MoorageError, match="cannot be removed: Permission denied"):
            home.purge()
    assert home.purge()
    assert not home.folder.exists()


def test_a_state_folder_that_cannot_go_itself_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    home = Home(tmp_path / "home")
    home.prepare()
    assert not home.purge()
    assert not list((tmp_path / "disk").iterdir())


def test_ctrl_c_while_modules_are_loaded_ends_without_a_traceback() -> None:
    # What starts the tests may ignore SIGINT, and children inherit that.
    begin = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    interrupted = (
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    load = "import moorage.cli.main; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    done = subprocess.run([sys.executable, "-c", begin + interrupted + load], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    subprocess.run([sys.executable, "-c", begin + load], check=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_what_is_said_about_a_log_begins_a_line_of_its_own() -> None:
    terminal = Terminal()
    lines = Lines(terminal, terminal)
    lines.finish()
    lines.write("step 1\n")
    lines.finish()
    lines.write("\r50 %")
    lines.finish()
    lines.finish()
    assert terminal.getvalue() == "step 1\n\r50 %\n"


def test_an_empty_list_says_so_to_a_person_and_nothing_to_a_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Session({"output": "table"}, table="jobs").show([])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stdout", Terminal())
    Session({}, table="jobs").show([])
    assert capsys.readouterr().err == "The list is empty.\n"


def test_a_file_gets_a_log_as_the_job_wrote_it() -> None:
    file = io.StringIO()
    lines = Lines(file, Terminal())
    lines.write("no newline")
    lines.finish()
    assert file.getvalue() == "no newline"


def test_the_table_of_clusters_counts_nodes_and_says_how_long_ago_they_were_heard() -> None:
    heard = clock.rfc3339(clock.now() - timedelta(minutes=5, seconds=1))
    text = output.render([{"name": "lab", "nodes": [{}, {}, {}], "last_connectivity_time": heard}], "table", table="clusters")
    row = text.splitlines()[2]
    assert row.startswith("lab") and row.endswith("3") and " ago " in row
    assert "ago" not in output.render([{"name": "new"}], "table", table="clusters")


def test_settings_are_written_and_shown_without_the_token(capfd: pytest.CaptureFixture[str]) -> None:
    assert moorage(capfd, "config", "set", "url=https://h:1", "token=secret", "workspace=w")[0] == 0
    code, out, _ = moorage(capfd, "config", "show")
    assert code == 0 and "secret" not in out
    assert {row["name"]: row["value"] for row in json.loads(out)}["token"] == "(set)"
    code, out, _ = moorage(capfd, "config", "show", "-w", "other", "--query", "[?name=='workspace'].[value,source]", "-o", "tsv")
    assert out == "other\toption\n"


def test_help_goes_to_stdout_with_exit_code_0(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = moorage(capfd, "job", "create", "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out and "--set PATH=VALUE" in out and "Global options:" in out
    assert moorage(capfd, "--version")[1].startswith("moorage ")


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m moorage.cli.main config show | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "MOORAGE_HOME": str(tmp_path)}
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "moorage.cli.main", "config", "show"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "MOORAGE_HOME": str(tmp_path)},
        )
    told = (
        "error: what the command prints, or keeps, cannot be written: No space left on device. Free some room, or write to another disk.\n"
    )
    assert (done.returncode, done.stderr) == (1, told)


def test_a_profile_that_cannot_be_written_is_named(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "file" / "home"))
    code, out, err = moorage(capfd, "config", "set", "workspace=w")
    assert (code, out) == (2, "") and "config.toml cannot be " in err and "Not a directory" in err
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "config.toml").mkdir(parents=True)
    code, _, err = moorage(capfd, "config", "set", "workspace=w")
    assert code == 2 and "config.toml cannot be read: Is a directory." in err


def test_the_help_imports_neither_http_nor_yaml() -> None:
    script = "import sys; from moorage.cli.main import main; main(['--help']); print(sorted(m for m in ('httpx2', 'yaml', 'pydantic', 'rich', 'ssl', 'asyncio', 'jmespath') if m in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def commands() -> list[tuple[str, click.Command]]:
    """Every noun and verb of `moorage` and of `az`, also those that help does not list."""
    found: list[tuple[str, click.Command]] = []

    def walk(command: click.Command, context: click.Context) -> None:
        found.append((context.command_path, command))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                each = command.get_command(context, name)
                assert each is not None
                walk(each, click.Context(each, info_name=name, parent=context))

    for program, name in ((application, "moorage"), (az, "az")):
        walk(program, click.Context(program, info_name=name))
    # The nouns of `az ml` are those of `moorage`.
    return [(path, command) for path, command in found if not path.startswith("az ml ")]


def example_lines(command: click.Command) -> list[list[str]]:
    """The command lines of its examples, as a shell takes them apart."""
    lines = [shlex.split(example.replace("\\\n", ""), comments=True) for example in getattr(command, "examples", ())]
    lines = [words[: words.index(">")] if ">" in words else words for words in lines]
    return [expand(words) if words[0] == "az" else words for words in lines if words and words[0] in ("moorage", "az")]


@pytest.mark.parametrize(("path", "command"), commands(), ids=[path for path, _ in commands()])
def test_every_command_explains_itself_with_examples_that_parse(path: str, command: click.Command) -> None:
    shown = command.get_help(click.Context(command, info_name=path.rpartition(" ")[2]))
    assert command.help and "Examples:" in shown
    for option in command.params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), option.name
    if isinstance(command, click.Group):
        return
    assert isinstance(command, Command | Process)
    shared = path in ("az logout", "az connectedk8s list", "az connectedk8s show", "az connectedk8s delete")
    assert shared or all(path in example for example in command.examples)
    assert not isinstance(command, Command) or not command.table or command.table in tables.TABLES
    for words in example_lines(command):
        if "--help" not in words and not shared:
            rest = words[len(path.split()) :]
            command.make_context(path, rest, parent=click.Context(application, info_name=words[0]))


def test_formats() -> None:
    rows = [{"name": "a", "n": 1, "ok": True, "inner": {"x": None}}, {"name": "b\tc", "n": None, "ok": False, "inner": {}}]
    assert output.render(rows, "tsv", query="[].[name,n,ok]") == "a\t1\ttrue\nb\\tc\t\tfalse"
    assert output.render(rows, "tsv", query="[0].name") == "a"
    assert output.render(rows, "table", query="[].{Name:name,N:n}") == "Name  N\n----  -\na     1\nb c"
    assert output.render([], "table", table="jobs") == ""
    assert output.render(None, "json") == "null"
    assert output.render("text", "yaml") == "text"
    assert output.render({"b": 1, "a": "é"}, "json") == '{\n  "a": "é",\n  "b": 1\n}'
    assert output.render(rows, "none") == ""
    with pytest.raises(Invalid, match=r"--query '\[\?'"):
        output.render(rows, "json", query="[?")


def test_wide_characters_keep_columns_aligned() -> None:
    assert tables.aligned(["A", "B"], [["日本", "x"], ["ab", "y"]]) == "A     B\n----  -\n日本  x\nab    y"


JOB_ROW = {
    "name": "quiet_harbor_k3v9s1t2x4",
    "status": "Completed",
    "compute": "azureml:local",
    "experiment_name": "digits",
    "display_name": "The third try, with twice the data",
}


def test_on_a_narrow_terminal_the_columns_of_least_use_give_way_and_names_never() -> None:
    whole = output.render([JOB_ROW], "table", table="jobs")
    assert whole.splitlines()[2].endswith(JOB_ROW["display_name"])
    full = max(len(line) for line in whole.splitlines())
    assert output.render([JOB_ROW], "table", table="jobs", width=full) == whole
    for width in range(full - 1, 20, -1):
        headings, rule, row = output.render([JOB_ROW], "table", table="jobs", width=width).splitlines()
        assert row.startswith(f"{JOB_ROW['name']}  Completed  local    digits"), width
        assert "…" in row and max(len(headings), len(rule), len(row)) <= max(width, 74)
    narrow = output.render([JOB_ROW], "table", table="jobs", width=80)
    assert narrow.splitlines()[2].endswith("  The third t…") and narrow.splitlines()[0].endswith("  Display name")
    assert output.render([JOB_ROW], "table", table="jobs", width=10).splitlines()[0].endswith("  Displ…")
    wide = output.render([{**JOB_ROW, "display_name": "日本" * 9}], "table", table="jobs", width=80)
    assert wide.splitlines()[2].endswith("  日本日本日…")


def test_columns_that_the_user_chose_and_what_goes_into_a_pipe_are_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {**JOB_ROW, "display_name": "word " * 60}
    monkeypatch.setenv("COLUMNS", "40")
    Session({"output": "table"}, table="jobs").show([long])
    assert capsys.readouterr().out.splitlines()[2].endswith(" word" * 60)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    Session({"query": "[].{Description:display_name}"}, table="jobs").show([long])
    assert terminal.getvalue().splitlines()[2] == ("word " * 60).rstrip()
    Session({}, table="jobs").show([long])
    assert terminal.getvalue().splitlines()[5].endswith("word…")


def test_traffic_shares_are_read_and_checked() -> None:
    assert shares("Blue=90, green=10 red=0", "--traffic") == {"blue": 90, "green": 10}
    for wrong in ("blue", "blue=x", "blue=101", "a=60 b=60"):
        with pytest.raises(Invalid):
            shares(wrong, "--traffic")
