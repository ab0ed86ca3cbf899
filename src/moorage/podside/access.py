"""A pod's access to the blob facade: the mounted Secret, read anew for every request, since its token is renewed in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moorage.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Access:
    """The folder where the Secret is mounted: `endpoint`, `token`, and `ca.crt` unless the service has a public certificate."""

    folder: Path

    def endpoint(self) -> str:
        return self._read("endpoint").rstrip("/")

    def token(self) -> str:
        return self._read("token")

    def authority(self) -> Path | None:
        """The CA file, if one is given."""
        path = self.folder / "ca.crt"
        return path if path.is_file() and path.stat().st_size else None

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Unavailable(f"The pod's access to the workspace has no {name} ({self.folder / name}: {error.strerror}).") from error
