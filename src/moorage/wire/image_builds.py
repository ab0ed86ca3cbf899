"""What is kept of the image of an environment's build context: a row per environment version and content, and who waits for it."""

from __future__ import annotations

from datetime import datetime

from moorage.clock import rfc3339
from moorage.specs.image_build import BuildStatus
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body


class Waiter(Body):
    """A job or deployment that starts once the image is there."""

    type: str
    name: str
    parent: str = ""


class ImageBuild(Body):
    """How far a build has come.

    Attributes:
        address: the build context, `CONTAINER/PATH`.
        dockerfile: its path below the context.
        digest: of the context's files and the Dockerfile's path.
        image: what the builder named, once it succeeded.
        code, message: why it failed.
        log: `CONTAINER/PATH` of the present attempt's log; empty before the first.
    """

    environment: str
    version: str
    address: str
    dockerfile: str
    digest: str
    status: BuildStatus = BuildStatus.WAITING
    image: str = ""
    code: str = ""
    message: str = ""
    log: str = ""
    attempt: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    waiting: list[Waiter] = []

    @property
    def label(self) -> str:
        return f"{self.environment}:{self.version}"

    def shown(self) -> Manifest:
        """As `properties.moorage.imageBuild` of the environment's version."""
        return {
            "status": self.status.value,
            "image": self.image or None,
            "error": {"code": self.code, "message": self.message} if self.code else None,
            "startTime": rfc3339(self.started) if self.started else None,
            "endTime": rfc3339(self.ended) if self.ended else None,
        }
