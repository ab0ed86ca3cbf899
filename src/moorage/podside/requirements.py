"""Conda and pip specs, read into what an installer of Python packages takes.

Conda's own packages come from the package index under the same name, which holds for Python packages and is said in the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.specs.environment import SUBSTITUTE

# Conda names whose Python package has another name.
_RENAMED = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "tensorflow-gpu": "tensorflow",
    "py-xgboost": "xgboost",
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "msgpack-python": "msgpack",
    "pytables": "tables",
    "matplotlib-base": "matplotlib",
    "dask-core": "dask",
}
# Conda packages that are no Python packages: the interpreter's tools and native libraries, which wheels bring themselves.
_NOT_PYTHON = frozenset(
    {
        "pip", "openssl", "ca-certificates", "certifi-ca", "libgcc-ng", "libstdcxx-ng", "libgomp", "mkl", "openblas", "blas", "nomkl",
        "cudatoolkit", "cudnn", "nccl", "pytorch-cuda", "cpuonly", "gcc", "gxx", "gcc_linux-64", "gxx_linux-64", "zlib", "readline", "sqlite",
    }
)  # fmt: skip
_SPEC = re.compile(r"^(?:[\w.-]+::)?(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*(?P<version>[=<>!~ ].*)?$")
_CLAUSE = re.compile(r"^(?P<operator>==|=|>=|<=|!=|~=|>|<)?\s*(?P<version>[\w.*+!-]+)(?:\s*=\s*(?P<build>[\w.*]+))?$")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install.

    Args:
        python: version specifier or prefix (`3.10`, `>=3.9`), empty for any.
        lines: requirement lines for the installer.
        notes: what people should know about the reading.
    """

    python: str
    lines: tuple[str, ...]
    notes: tuple[str, ...] = ()
    # Where that Python is not to be had, another may do, with the packages' nearest versions.
    substitute: bool = False


def read(conda: str, pip: Sequence[str]) -> Requirements:
    """Both specs together; conda's requirements come first.

    Raises:
        Invalid: the conda file is none, or a line asks for what a file beside it would have.
    """
    python, lines, moved, left_out = _conda(conda) if conda.strip() else ("", [], [], [])
    lines += [line.strip() for line in pip if line.strip() and not line.strip().startswith("#")]
    for line in lines:
        if re.match(r"^(-r|--requirement|-c|--constraint|-e|--editable)\b", line) or line.startswith(("./", "../", "file:")):
            raise Invalid(
                f"The environment asks for '{line}', a file that does not travel with it. List the requirements themselves.",
                code="InvalidEnvironment",
                target="environment",
            )
    notes: list[str] = []
    if moved:
        notes.append(f"Conda packages taken from the Python package index: {', '.join(moved)}")
    if left_out:
        notes.append(f"Conda packages left out, since they are no Python packages: {', '.join(left_out)}")
    return Requirements(python, tuple(lines), tuple(notes), substitute=_substitutes(conda))


def _substitutes(conda: str) -> bool:
    """Whether the specification is a ready-made one, whose name promises a family of packages rather than one interpreter."""
    return bool(re.search(rf"^{re.escape(SUBSTITUTE)}: true$", conda, re.MULTILINE))


def loosened(lines: Sequence[str]) -> list[str]:
    """Requirement lines whose exact versions became lower bounds: `a==1.0.*` is `a>=1.0`."""
    return [re.sub(r"===?\s*([0-9][^\s,;*]*?)(?:\.\*)?(?=\s*(?:,|;|$))", r">=\1", line) for line in lines]


def _conda(text: str) -> tuple[str, list[str], list[str], list[str]]:
    python, lines, moved, left_out = "", list[str](), list[str](), list[str]()
    for entry in _dependencies(text):
        if isinstance(entry, dict):
            if set(entry) != {"pip"} or not isinstance(entry["pip"] or [], list):
                raise _unreadable(f"'{', '.join(map(str, entry))}' under dependencies is not understood; only a list 'pip' is")
            lines += [str(line).strip() for line in entry["pip"] or ()]
            continue
        found = _SPEC.match(str(entry).strip())
        if not found:
            raise _unreadable(f"'{entry}' is not a conda dependency")
        name, version = found["name"].lower(), (found["version"] or "").strip()
        if name == "python":
            python = _python(version)
        elif name in _NOT_PYTHON or name.startswith(("lib", "_libgcc")):
            if name != "pip":
                left_out.append(name)
        else:
            lines.append(f"{_RENAMED.get(name, name)}{_specifier(version, str(entry))}")
            moved.append(str(entry))
    return python, lines, moved, left_out


def _dependencies(text: str) -> list[object]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(f"it is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise _unreadable("it is no mapping with 'dependencies'")
    found = document.get("dependencies") or []
    if not isinstance(found, list):
        raise _unreadable("'dependencies' is not a list")
    return found


def _specifier(version: str, entry: str) -> str:
    """Conda's `=1.2` means 1.2 and whatever follows it, its `=1.2=build` means 1.2 itself."""
    clauses: list[str] = []
    for part in filter(None, (piece.strip() for piece in version.split(","))):
        found = _CLAUSE.match(part)
        if not found:
            raise _unreadable(f"the version in '{entry}' is not understood")
        operator, number = found["operator"] or "=", found["version"]
        if number == "*":
            continue
        if operator == "=":
            exact = found["build"] or number.endswith("*")
            clauses.append(f"=={number}" if exact else f"=={number}.*")
        else:
            clauses.append(f"{operator}{number}")
    return ",".join(clauses)


def _python(version: str) -> str:
    clauses = _specifier(version, f"python{version}").split(",")
    if len(clauses) == 1 and clauses[0].startswith("=="):
        return clauses[0][2:].removesuffix(".*")
    return ",".join(clauses)


def _unreadable(finding: str) -> Invalid:
    return Invalid(f"The environment's conda file cannot be used: {finding}.", code="InvalidEnvironment", target="environment.conda_file")
