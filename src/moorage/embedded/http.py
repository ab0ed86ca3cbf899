"""The HTTP side of a request, without a framework: what came in, what goes out, and which representation the client asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from moorage.embedded import protobuf
from moorage.embedded.registry import Guard
from moorage.embedded.users import User
from moorage.errors import Invalid

JSON = "application/json"
YAML = "application/yaml"
APPLY = "application/apply-patch+yaml"
_DEEPEST = 200
_INTEGER = re.compile(r"-?[0-9]{1,40}")
_INTEGER_BITS = 63


@dataclass(frozen=True, slots=True)
class Request:
    """One request, body read. Header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    user: User
    guard: Guard | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", JSON).partition(";")[0].strip().lower()

    def flag(self, name: str) -> bool:
        """A boolean query parameter, as Go's strconv reads it; `?watch` alone counts as true."""
        return truth(self.query, name)

    def number(self, name: str) -> int | None:
        text = self.query.get(name)
        if text is None or text == "":
            return None
        if not _INTEGER.fullmatch(text):
            raise Invalid(f'strconv.ParseInt: parsing "{text}": invalid syntax', code="BadRequest", target=name)
        if (number := int(text)).bit_length() > _INTEGER_BITS:
            raise Invalid(f'strconv.ParseInt: parsing "{text}": value out of range', code="BadRequest", target=name)
        return number

    def document(self) -> Any:
        """The body, parsed: JSON, or YAML where the client may send it."""
        kind = self.content_type
        if kind == protobuf.CONTENT_TYPE:
            return protobuf.decode(self.body)
        if kind in (YAML, APPLY) and self.body[:1] not in (b"{", b"["):
            return _from_yaml(self.body)
        if kind not in (JSON, YAML, APPLY) and not kind.endswith("+json"):
            raise Invalid(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
                code="UnsupportedMediaType",
            )
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"couldn't decode the body as JSON: {error}", code="BadRequest") from error

    def mapping(self) -> dict[str, Any]:
        parsed = self.document()
        if not isinstance(parsed, dict):
            raise Invalid("the body must be a JSON object", code="BadRequest")
        return parsed


def _from_yaml(body: bytes) -> Any:
    """A YAML body; Invalid (400) for one that is nested too deeply or says the same thing twice by alias.

    libyaml ends the process on deep nesting, and aliases of aliases are small only until they are written out.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(body, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
                what = "aliases are not taken" if depth <= _DEEPEST else f"nested more than {_DEEPEST} deep"
                raise Invalid(f"error decoding YAML: {what}; send it as JSON", code="BadRequest")
        return yaml.load(body, Loader=loader)
    except yaml.YAMLError as error:
        raise Invalid(f"error decoding YAML: {error}", code="BadRequest") from error


def truth(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter; Invalid (400) for what Go would not read."""
    text = query.get(name)
    if text is None:
        return False
    if text in ("", "1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise Invalid(f'strconv.ParseBool: parsing "{text}": invalid syntax', code="BadRequest", target=name)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: `body`, or `stream` for one whose end is not known yet."""

    body: bytes = b""
    status: int = 200
    content_type: str = JSON
    stream: AsyncGenerator[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status)


@dataclass(frozen=True, slots=True)
class Representation:
    """One media type of an Accept header that we can produce. `form` is empty, `Table`, `PartialObjectMetadata`, ..."""

    media_type: str = JSON
    form: str = ""
    group: str = ""
    version: str = ""


_FORMS = frozenset({"", "Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList"})


def accepted(header: str) -> Representation:
    """The first acceptable representation, in the client's order; Invalid (406) when there is none."""
    for choice in header.split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type in ("*/*", "application/*", ""):
            return Representation()
        if media_type not in (JSON, YAML):
            continue
        named = dict(parameter.partition("=")[::2] for parameter in parameters)
        if named.get("as", "") in _FORMS and named.get("stream", "watch") == "watch":
            return Representation(media_type, named.get("as", ""), named.get("g", ""), named.get("v", ""))
    raise Invalid("only the following media types are accepted: application/json, application/yaml", code="NotAcceptable", target="Accept")
