"""The base of every request body: camelCase outside, unknown keys kept, and a failure that names the field, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest


class Body(BaseModel):
    """A part of a request. Keys it does not know are kept, since a GET must answer what was PUT."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, populate_by_name=True, frozen=True)


def passable(text: str) -> str:
    """The text, if a program can get it as an argument or in a variable; ValueError otherwise."""
    if "\0" in text:
        raise ValueError("contains a NUL character, which no command and no variable can have (POSIX execve). Take it out.")
    return text


Passable = Annotated[str, AfterValidator(passable)]
B = TypeVar("B", bound=Body)


def read(model: type[B], raw: object, *, target: str = "properties") -> B:
    """Read a body; Invalid with every wrong field at once when it is not one.

    Args:
        model: what it should be.
        raw: decoded JSON.
        target: where `raw` stands in the whole request, for the fields' names.
    """
    if not isinstance(raw, Mapping):
        raise Invalid(f"{target} must be a JSON object with the resource's fields.", target=target)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        findings = tuple(
            _finding(target, item["loc"], item["type"], item["msg"]) for item in error.errors(include_input=False, include_url=False)
        )
        if len(findings) == 1:
            raise findings[0] from None
        summary = " ".join(finding.message for finding in findings)
        raise Invalid(summary, target=findings[0].target, details=findings) from None


def _finding(target: str, location: tuple[int | str, ...], kind: str, message: str) -> Invalid:
    # Pydantic puts the tag of a discriminated union and "[key]" into the location; neither is a field of the request.
    path = ".".join((target, *(str(part) for part in location if not str(part).startswith(("function-", "[")))))
    match kind:
        case "missing":
            return Invalid(f"{path} is required. Add it.", target=path)
        case "value_error":
            return Invalid(f"{path}: {message.removeprefix('Value error, ')}", target=path)
        case _:
            return Invalid(f"{path}: {message[:1].lower()}{message[1:]}.", target=path)


def without_nulls(manifest: Manifest) -> Manifest:
    """The manifest without keys whose value is None or an empty object, so that equal intents render equal."""
    return {key: value for key, value in manifest.items() if value is not None and value != {}}
