"""A blob facade of one folder in memory, on a real socket, with faults to order."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from moorage.podside.access import Access

TOKEN = "t0ken"
PAGE = 3


@dataclass
class Store:
    """What the facade holds and how it misbehaves.

    Args:
        faults: statuses to answer the next requests with, before anything else; 0 drops the connection.
        cut: the next GET of a blob sends only this many bytes of what it promised.
        replaced: what takes the place of blobs once an answer has been cut.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    blocks: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    cut: int | None = None
    replaced: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, name: str, content: bytes) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.blobs.get(name) == content, timeout=90)


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, format: str, *args: object) -> None:
        self.store.log.append(f"{self.command} {self.path}")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self) -> bool:
        if self.store.faults:
            fault = self.store.faults.pop(0)
            self.close_connection = True
            if fault:
                self._answer(fault)
            return True
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.close_connection = True
            self._answer(401)
            return True
        return False

    def do_HEAD(self) -> None:
        if not self._refused():
            name = unquote(urlsplit(self.path).path).removeprefix("/base/")
            content = self.store.blobs.get(name)
            self._answer(404) if content is None else self._answer(200, length=str(len(content)))

    def do_GET(self) -> None:
        if self._refused():
            return
        address = urlsplit(self.path)
        name, query = unquote(address.path).removeprefix("/base/"), parse_qs(address.query, keep_blank_values=True)
        if query.get("comp") == ["list"]:
            self._list(name, query["prefix"][0], query.get("marker", [""])[0])
        elif name not in self.store.blobs:
            self._answer(404)
        else:
            self._content(self.store.blobs[name])

    def _content(self, content: bytes) -> None:
        version = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.headers.get("If-Match", version) != version:
            self._answer(412)
            return
        found = re.match(r"bytes=(\d+)-", self.headers.get("x-ms-range", ""))
        part = content[int(found[1]) :] if found else content
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", version)
        self.end_headers()
        if self.store.cut is not None:
            part, self.store.cut, self.close_connection = part[: self.store.cut], None, True
            self.store.blobs |= self.store.replaced
        self.wfile.write(part)

    def _list(self, container: str, prefix: str, marker: str) -> None:
        names = [name for name in sorted(self.store.blobs) if name.startswith(f"{container}/{prefix}") and name > marker]
        page, rest = names[:PAGE], names[PAGE:]
        entries = "".join(
            f"<Blob><Name>{escape(name[len(container) + 1 :])}</Name><Properties><Content-Length>{len(self.store.blobs[name])}"
            "</Content-Length></Properties></Blob>"
            for name in page
        )
        following = escape(page[-1]) if rest else ""
        body = f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        self._answer(200, body.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        address = urlsplit(self.path)
        name, query = unquote(address.path).removeprefix("/base/"), parse_qs(address.query)
        with self.store.changed:
            if query.get("comp") == ["block"]:
                self.store.blocks.setdefault(name, {})[query["blockid"][0]] = body
            elif query.get("comp") == ["blocklist"]:
                blocks = self.store.blocks.pop(name)
                self.store.blobs[name] = b"".join(blocks[each] for each in re.findall(r"<Latest>(.*?)</Latest>", body.decode()))
            else:
                self.store.blobs[name] = body
            self.store.changed.notify_all()
        self._answer(201)


@contextmanager
def served(folder: Path, exchange: type[BaseHTTPRequestHandler], path: str = "") -> Iterator[None]:
    """A server of such answers on loopback, and a pod's access to it in `folder`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), exchange) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "endpoint").write_text(f"http://127.0.0.1:{server.server_port}{path}\n")
        (folder / "token").write_text(TOKEN)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def facade(folder: Path) -> Iterator[tuple[Store, Access]]:
    """A running facade, and a pod's access to it in `folder`."""
    store = Store()
    with served(folder, type("Exchange", (_Exchange,), {"store": store}), "/base"):
        yield store, Access(folder)
