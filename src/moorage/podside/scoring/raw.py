"""Raw requests and responses, as far as scoring scripts use those of the original (flask's, underneath)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

Function = TypeVar("Function", bound=Callable[..., Any])
requested = False


def rawhttp(function: Function) -> Function:
    """Decorates run() to get the request instead of its body. The mark is global, as in the original: decorators may wrap it."""
    global requested
    requested = True
    return function


class Headers(dict[str, str]):
    """Header names in the form HTTP/1 shows them, found in any case."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        super().__init__({name.title(): value for name, value in pairs.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.title())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.title())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.title(), default)


class Arguments(dict[str, str]):
    """Query parameters: the first value of each, and all of them."""

    def __init__(self, query: str) -> None:
        self._all = parse_qs(query, keep_blank_values=True)
        super().__init__({name: values[0] for name, values in self._all.items()})

    def getlist(self, name: str) -> list[str]:
        return list(self._all.get(name, ()))


class AMLRequest:
    """A request."""

    def __init__(
        self, method: str = "GET", path: str = "/", query: str = "", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query.encode()
        self.full_path = f"{path}?{query}"
        self.headers = Headers(headers or {})
        self.args = Arguments(query)
        self.data = body

    @property
    def content_type(self) -> str:
        return str(self.headers.get("Content-Type", ""))

    @property
    def mimetype(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def is_json(self) -> bool:
        return self.mimetype == "application/json" or (self.mimetype.startswith("application/") and self.mimetype.endswith("+json"))

    @property
    def json(self) -> Any:
        return self.get_json()

    def get_data(self, cache: bool = True, as_text: bool = False) -> Any:
        return self.data.decode("utf-8") if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False) -> Any:
        if not (force or self.is_json):
            if silent:
                return None
            raise ValueError(f"The request's Content-Type is '{self.content_type}', not application/json.")
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise


class AMLResponse:
    """A response that is sent as it is."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: Mapping[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        if message is None or json_str:
            self.body = json.dumps({} if message is None else message).encode()
            self.headers["content-type"] = "application/json"
        else:
            self.body = message.encode() if isinstance(message, str) else bytes(message)
            self.headers["content-type"] = "text/html; charset=utf-8"
        self.headers["x-ms-run-function-failed"] = str(run_function_failed)
        for name, value in (response_headers or {}).items():
            self.headers[name.lower()] = str(value)

    def get_data(self) -> bytes:
        return self.body
