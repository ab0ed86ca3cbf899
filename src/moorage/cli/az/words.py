"""The command line as `az` reads it, rewritten into one that Click reads the same way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moorage.cli.edits import is_option

# Options of `az` that take several words after one mention: `--set a=1 b=2`. What follows `--add` and `--remove` belongs together (`moorage.cli.edits`).
_MANY = frozenset(
    {"--set", "--defaults", "--config", "--configuration-settings", "--config-protected"}
    | {"--configuration-protected-settings", "--config-settings", "--config-protected-settings", "--parameters", "--tags"}
)
# Short forms that mean a list in one command and something else in others: the words that lead there.
_MANY_SHORT = {("configure",): {"-d"}, ("deployment", "group"): {"-p"}}


def expand(words: Sequence[str]) -> list[str]:
    """Each word after a list option gets the option before it: `--set a=1 b=2` becomes `--set a=1 --set b=2`.

    Also `-o yamlc`, which is `yaml` in colour, becomes `-o yaml`.
    """
    short: Collection[str] = next((signs for lead, signs in _MANY_SHORT.items() if tuple(words[: len(lead)]) == lead), frozenset())
    found: list[str] = []
    current = ""
    for index, word in enumerate(words):
        if word in _MANY or word in short:
            follows = index + 1 < len(words) and not is_option(words[index + 1])
            current = word if follows else ""
            if not follows:
                # Let Click say that the argument is missing.
                found.append(word)
        elif current and not is_option(word):
            found.extend((current, word))
        else:
            current = ""
            found.append("yaml" if word == "yamlc" and found[-1:] in (["-o"], ["--output"]) else word)
    return found
