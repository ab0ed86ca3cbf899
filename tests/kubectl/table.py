"""The table of kubectl cases: reading and writing its files, running a case against a cluster, and making two clusters' answers comparable.

A file of `cases/` is a theme. Its expected output is what a real control plane printed (`python -m tests.kubectl.record`), never written by hand:

    ## title of the case (slow) (exclusive)
    $ kubectl get pods
    No resources found in <namespace> namespace.
    $ cat > c.yaml <<'END'
    > kind: ConfigMap
    > END
    $ kubectl get nothing
    error: the server doesn't have a resource type "nothing"
    [1]

Lines after `$` and `>` go to a shell whose kubectl speaks to the cluster, in a folder of the case's own with a copy of `manifests/` in it and a namespace of its own.
`[embedded: WHY]` among the output begins what the embedded cluster prints instead, for a difference that docs/limits.md declares.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
CASES, MANIFESTS = FOLDER / "cases", FOLDER / "manifests"
# A step may wait for pods on a loaded machine; kubectl's own --timeout of the cases is shorter.
STEP_SECONDS = 120
_TITLE = re.compile(r"^## (?P<title>.*?)(?P<flags>( \((slow|exclusive)\))*)$")
_DIFFERS = re.compile(r"^\[embedded: (?P<reason>.+)\]$")


@dataclass(frozen=True, slots=True)
class Step:
    """One command and what it prints, with `[N]` as last line when it ends with N. `embedded` is the declared difference: reason and lines."""

    command: Sequence[str]
    expected: Sequence[str] = ()
    embedded: tuple[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A sequence of steps. `slow` keeps it out of the fast ring; an `exclusive` one changes what all others see, and runs alone."""

    theme: str
    title: str
    steps: Sequence[Step]
    slow: bool = False
    exclusive: bool = False

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.theme} {self.title}".lower()).strip("-")[:60].strip("-")


def themes() -> Sequence[str]:
    return sorted(path.stem for path in CASES.glob("*.console"))


def cases(theme: str) -> Sequence[Case]:
    """The cases of a theme, in the file's order; ValueError with the line that cannot be read."""
    found: list[tuple[Case, list[_Reading]]] = []
    steps: list[_Reading] = []
    for number, line in enumerate((CASES / f"{theme}.console").read_text().splitlines(), 1):
        if title := _TITLE.match(line):
            steps = []
            flags = title["flags"]
            found.append((Case(theme, title["title"], (), "(slow)" in flags, "(exclusive)" in flags), steps))
        elif line.startswith("$ "):
            steps.append(_Reading([line[2:]]))
        elif line.startswith("> ") or line == ">":
            steps[-1].command.append(line[2:])
        elif differs := _DIFFERS.match(line):
            steps[-1].differs = differs["reason"]
        elif steps:
            (steps[-1].expected if steps[-1].differs is None else steps[-1].embedded).append(line)
        elif line.strip():
            raise ValueError(f"{theme}.console:{number}: output without a command: {line}")
    return [replace(case, steps=[step.done() for step in steps]) for case, steps in found]


@dataclass(slots=True)
class _Reading:
    command: list[str]
    expected: list[str] = field(default_factory=list)
    differs: str | None = None
    embedded: list[str] = field(default_factory=list)

    def done(self) -> Step:
        differs = None if self.differs is None else (self.differs, _trimmed(self.embedded))
        return Step(self.command, _trimmed(self.expected), differs)


def _trimmed(lines: Sequence[str]) -> Sequence[str]:
    """Without the empty lines at the end, which part the cases of a file."""
    lines = list(lines)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def written(found: Sequence[Case]) -> str:
    """The text of a theme's file."""
    return "\n".join("\n".join(_lines(case)) + "\n" for case in found)


def _lines(case: Case) -> Iterator[str]:
    yield f"## {case.title}{' (slow)' if case.slow else ''}{' (exclusive)' if case.exclusive else ''}"
    for step in case.steps:
        yield f"$ {step.command[0]}"
        yield from (f"> {line}".rstrip() for line in step.command[1:])
        yield from step.expected
        if step.embedded is not None:
            yield f"[embedded: {step.embedded[0]}]"
            yield from step.embedded[1]


# Running.


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs cases against the cluster of a kubeconfig. `folder` takes their files and kubectl's discovery cache."""

    kubeconfig: Path
    folder: Path

    def run(self, case: Case) -> Iterator[tuple[Step, Sequence[str]]]:
        """Each step with what it printed, normalised. The namespace is made before the first and taken away after the last."""
        home = self.folder / case.slug
        shutil.copytree(MANIFESTS, home)
        config = yaml.safe_load(self.kubeconfig.read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = case.slug
        own = self.folder / f"{case.slug}.kubeconfig"
        own.write_text(yaml.safe_dump(config))
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "KUBECONFIG": str(own),
            "KUBECACHEDIR": str(self.folder / "cache"),
            "KUBE_EDITOR": "false",
            "NAMESPACE": case.slug,
            "LC_ALL": "C.UTF-8",
        }
        # An earlier run's may still be going away.
        while _shell(f"kubectl create namespace {case.slug}", environment, home).endswith("[1]\n"):
            _must(["kubectl", "delete", "namespace", case.slug, "--ignore-not-found"], environment)
        try:
            # Pods without the account's token, and applies that find none, would make runs differ.
            _until(["kubectl", "get", "serviceaccount/default", "configmap/kube-root-ca.crt"], environment)
            for step in case.steps:
                yield step, normalised(_shell("\n".join(step.command), environment, home), case.slug)
        finally:
            _must(["kubectl", "delete", "namespace", case.slug, "--wait=false"], environment)


def _must(command: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=STEP_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}")


def _until(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Repeat until it succeeds. `kubectl wait --for=create` of two objects sees the first one made and not found the second."""
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        try:
            return _must(command, environment)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _shell(script: str, environment: Mapping[str, str], folder: Path) -> str:
    command = ["timeout", f"--kill-after={STEP_SECONDS}", str(STEP_SECONDS), "/bin/sh", "-c", script]
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.decode()
    if done.returncode:
        text += f"{'' if text.endswith(chr(10)) or not text else chr(10)}[{done.returncode}]\n"
    return text


# What differs from run to run, in the order in which it is replaced.
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
_REPLACED = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uid>"),
    (r"moorage://[0-9a-f]{64}", "<container>"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| \+0000 UTC)", "<time>"),
    (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "<time>"),
    (r"\b[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", "<log> "),
    (r"(resourceVersion\"?[:=] ?)\"?\d+\"?", r"\1<version>"),
    (r"(Resource Version: +)\d+", r"\1<version>"),
    (r"\bv1\.37\.\d+(\+moorage)?", "v1.37.x"),
    (rf"-{_RANDOM}{{8,10}}-{_RANDOM}{{5}}\b", "-<hash>-<random>"),
    (rf"-{_RANDOM}{{8,10}}\b", "-<hash>"),
    (rf"-{_RANDOM}{{5}}\b", "-<random>"),
    (rf"(pod-template-hash[\"']?[:=] ?[\"']?){_RANDOM}+", r"\1<hash>"),
    (r"\b(127|10|198|172|192)(\.\d{1,3}){3}\b", "<ip>"),
    (r"\b(\d+):3[0-2]\d{3}/", r"\1:<port>/"),
    (r"(nodePort\"?: ?)\d{5}", r"\1<port>"),
    (r"https://(<ip>|localhost):\d+", "https://<api>"),
    (r"(?<![\w=-])(?<!for )(\d+d(\d+h)?|\d+h(\d+m)?|(\d{1,2}m)?\d+s|\d{1,2}m)(?= |$|\)|,)", "<age>"),
    (r"(?<=\S) {2,}(?=\S)", "  "),
    (r"\t+", "  "),
    # Which containers of fields an update owns follows from Go's zero values; docs/limits.md.
    (r"^ +\.: \{\}\n", ""),
    (r"[ \t]+$", ""),
)


def normalised(text: str, namespace: str) -> Sequence[str]:
    """The lines of an answer without what no two runs share: names drawn by chance, moments, versions, addresses, the width of columns."""
    text = text.replace(namespace, "<namespace>")
    for pattern, replacement in _REPLACED:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return _trimmed(text.splitlines())


def differences(found: Iterable[tuple[Step, Sequence[str], Sequence[str]]]) -> str:
    """What was printed against what was expected, for every step where they differ; empty when nowhere."""
    shown = []
    for step, recorded, printed in found:
        expected, lines = _events_sorted(recorded), _events_sorted(printed)
        if lines != expected:
            said = difflib.unified_diff(expected, lines, "expected", "printed", lineterm="", n=2)
            shown.append("\n".join(["$ " + "\n> ".join(step.command), *said]))
    return "\n\n".join(["", *shown]) if shown else ""


def _events_sorted(lines: Sequence[str]) -> list[str]:
    """With the events of a description sorted: kubectl sorts them by their second, and leaves those of one second as it likes."""
    found: list[str] = []
    events: list[str] | None = None
    for line in lines:
        if events is not None and not line.startswith("  "):
            found, events = [*found, *sorted(events)], None
        if events is not None:
            events.append(line)
        else:
            found.append(line)
            if re.fullmatch(r"  ----  ------  ----  ----  -------", line) and re.match(r"  Type  Reason  Age  From", found[-2]):
                events = []
    return [*found, *sorted(events or ())]
