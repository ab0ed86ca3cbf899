"""Commands of jobs: `${{inputs.x}}` and `${{outputs.x}}` put in place, `$[[ ... ]]` left out when its input is not given.

Values are substituted literally, as the original does: the command is the user's shell text, and quoting is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from moorage.errors import Invalid

_REFERENCE = re.compile(r"\$\{\{\s*(?P<path>[^{}]*?)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(?P<text>.*?)\]\]", re.DOTALL)
_NAMED = re.compile(r"^(?P<side>inputs|outputs)\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*)(?P<path>\.path)?$")
# Kubernetes itself expands $(NAME) and $$ in commands and environment values; what the user wrote is for the shell.
_EXPANDED = re.compile(r"\$(?=[$(])")


def resolve(command: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """The command with every reference replaced.

    Args:
        command: the job's command as written.
        inputs: value or path of each input that is given.
        outputs: path of each output.

    Raises:
        Invalid: for a reference that names nothing; the message has the names that exist.
    """
    places = {"inputs": inputs, "outputs": outputs}

    def known(path: str) -> bool:
        found = _NAMED.match(path)
        return bool(found) and found["name"] in places[found["side"]] if found else False

    def optional(found: re.Match[str]) -> str:
        text = found["text"]
        return text.strip() if all(known(reference["path"]) for reference in _REFERENCE.finditer(text)) else ""

    def value(found: re.Match[str]) -> str:
        named = _NAMED.match(found["path"])
        if not named or named["name"] not in places[named["side"]]:
            raise _unknown(found[0], inputs, outputs)
        return places[named["side"]][named["name"]]

    return _REFERENCE.sub(value, _OPTIONAL.sub(optional, command))


def literal(text: str) -> str:
    """Text for a container's `command`, `args` or `env` that Kubernetes passes on unchanged."""
    return _EXPANDED.sub("$$", text)


def _unknown(reference: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Invalid:
    names = [*(f"inputs.{name}" for name in sorted(inputs)), *(f"outputs.{name}" for name in sorted(outputs))]
    return Invalid(
        f"The command refers to {reference}, which the job does not have. It has: {', '.join(names) or 'no inputs and no outputs'}.",
        code="UnknownReference",
        target="command",
    )
