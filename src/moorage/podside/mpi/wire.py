"""Connections between the instances of one job: both sides prove that they know the job's key, then exchange frames.

What runs over them is no more secret than what MPI itself sends between the pods: they are authenticated and not encrypted.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# What a frame carries: a message, a stream's bytes (none: the stream has ended), the exit status.
MESSAGE, STDIN, STDOUT, STDERR, EXIT = b"M", b"I", b"O", b"E", b"X"

_HEADER = struct.Struct("!cI")
_LONGEST = 1 << 20
CHUNK = 1 << 16
_NONCE = 32
# For the proofs and the first message, which need no thinking.
_GREETING_SECONDS = 30.0
# A node that is gone says nothing: after half a minute of silence the kernel asks, and gives up half a minute later.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6), ("TCP_USER_TIMEOUT", 60_000))
# What says that there is nothing to take a connection with, and until the next try.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_SECONDS = 1.0


class Refused(ConnectionError):
    """The other side does not know the job's key."""


class Channel:
    """One connection; frames may be sent by several threads and are received by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send one frame.

        Raises:
            OSError: the connection is gone.
        """
        with self._sending:
            self._socket.sendall(_HEADER.pack(kind, len(payload)) + payload)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self.send(MESSAGE, json.dumps(message).encode())

    def receive(self) -> tuple[bytes, bytes]:
        """Kind and payload of the next frame.

        Raises:
            OSError: the connection is gone, or was closed.
        """
        kind, length = _HEADER.unpack(_exactly(self._socket, _HEADER.size))
        if length > _LONGEST:
            raise ConnectionError(f"a frame of {length} bytes")
        return kind, _exactly(self._socket, length)

    def hear(self) -> dict[str, Any]:
        """The next message.

        Raises:
            OSError: the connection is gone, or something else came.
        """
        kind, payload = self.receive()
        if kind != MESSAGE:
            raise ConnectionError("a frame that is no message")
        try:
            message = json.loads(payload.decode())
        except ValueError as error:
            raise ConnectionError(f"a message that is no JSON: {error}") from error
        if not isinstance(message, dict):
            raise ConnectionError("a message that is no object")
        return message

    def splice(self, other: Channel) -> None:
        """Pass on whatever comes, both ways, until either side closes; nothing may have been received ahead of it."""
        threading.Thread(target=_copy, args=(self._socket, other._socket), daemon=True).start()
        threading.Thread(target=_copy, args=(other._socket, self._socket), daemon=True).start()

    def close(self) -> None:
        """Close for both directions, also under a thread that is receiving."""
        _shut(self._socket)


def dial(address: tuple[str, int], source: str, key: str, hello: dict[str, Any]) -> Channel:
    """Connect from the address `source` and say who this is.

    Raises:
        Refused: who listens there does not know the key.
        OSError: nobody listens there, or not yet.
    """
    connection = socket.create_connection(address, timeout=_GREETING_SECONDS, source_address=(source, 0))
    try:
        theirs, mine = _exactly(connection, _NONCE), os.urandom(_NONCE)
        connection.sendall(mine + _proof(key, b"dials", theirs, mine))
        if not hmac.compare_digest(_exactly(connection, _NONCE), _proof(key, b"listens", mine, theirs)):
            raise Refused(f"{address[0]}:{address[1]} is not this job's")
        channel = Channel(connection)
        channel.tell(hello)
        _stay(connection)
    except BaseException:
        connection.close()
        raise
    return channel


def listen(
    address: tuple[str, int], key: str, accepts: Callable[[str], bool], met: Callable[[str, dict[str, Any], Channel], None]
) -> socket.socket:
    """Listen until the answered socket is silenced.

    Args:
        address: where.
        key: the job's.
        accepts: whether an address may connect at all.
        met: called in a thread of its own with the address, the first message and the connection of everyone who knows the key.

    Raises:
        OSError: the address cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except BaseException:
        listener.close()
        raise

    def greet(connection: socket.socket, host: str) -> None:
        try:
            channel, hello = _greet(connection, key)
        except OSError:
            connection.close()
            return
        met(host, hello, channel)

    def accept() -> None:
        while True:
            try:
                connection, (host, *_) = listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    return
                # Others end meanwhile, and who dials is patient.
                print(f"A connection has to wait: {error.strerror}.", file=sys.stderr, flush=True)
                time.sleep(_NO_ROOM_SECONDS)
                continue
            if accepts(host):
                threading.Thread(target=greet, args=(connection, host), daemon=True).start()
            else:
                connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def silence(listener: socket.socket) -> None:
    """Listen no longer."""
    _shut(listener)


def _greet(connection: socket.socket, key: str) -> tuple[Channel, dict[str, Any]]:
    connection.settimeout(_GREETING_SECONDS)
    mine = os.urandom(_NONCE)
    connection.sendall(mine)
    theirs, proof = _exactly(connection, _NONCE), _exactly(connection, _NONCE)
    if not hmac.compare_digest(proof, _proof(key, b"dials", mine, theirs)):
        raise Refused("a wrong key")
    connection.sendall(_proof(key, b"listens", theirs, mine))
    channel = Channel(connection)
    hello = channel.hear()
    _stay(connection)
    return channel, hello


def _proof(key: str, side: bytes, theirs: bytes, mine: bytes) -> bytes:
    return hmac.new(key.encode(), side + theirs + mine, hashlib.sha256).digest()


def _stay(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ConnectionError("the connection was closed")
        found += part
    return bytes(found)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while True:
            part = source.recv(CHUNK)
            if not part:
                break
            target.sendall(part)
    except OSError:
        # Either side is gone; the other is told by closing.
        pass
    _shut(source)
    _shut(target)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It was not connected any more.
        pass
    connection.close()
