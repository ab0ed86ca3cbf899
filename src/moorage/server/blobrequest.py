"""A request to the blob facade that was allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request

from moorage.identity.tokens import User
from moorage.server.services import Services


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, of what, and by whom.

    Attributes:
        query: the parameters, their names in lower case.
        user: who asks with a token of their own; None for links and pods.
        visible: which names of the container a listing may show.
    """

    services: Services
    request: Request
    container: str
    path: str
    query: Mapping[str, str]
    user: User | None
    visible: Callable[[str], bool]
