"""What a listener of this machine shows: its greeting, and the certificate for a name; for `mailsvc doctor`.

Blocking sockets with a time limit, because a command has nothing else to do meanwhile.  The certificate is not checked
here: it is compared with the one that should be there, octet by octet, which is more than any check.  What a stricter
client would say of it is for ``mailsvc probe``.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from mailsvc.config.endpoint import endpoint_parts

SECONDS = 20.0
_LINE_LIMIT = 4096
_MOST_LINES = 100
INSIDE_TLS = frozenset({"submissions", "pop3s"})


class NotTried(Exception):
    """It cannot be known from here; the text says why."""


class NotServed(Exception):
    """Nobody listens there, or does not answer as a mail server does; the text says what happened."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a listener can be reached from this machine: ``family`` and ``address`` as `socket` has them."""

    family: socket.AddressFamily
    address: tuple[str, int] | str

    def __str__(self) -> str:
        if isinstance(self.address, tuple):
            host, port = self.address
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return str(self.address)


def place_of(endpoint: str) -> Place:
    """Where the listener of this Twisted endpoint string is reached.  Raises `NotTried`."""
    positional, named = endpoint_parts(endpoint)
    kind, *values = positional
    if kind == "haproxy":
        raise NotTried("it wants to hear the PROXY protocol first")
    if kind == "unix":
        return Place(socket.AF_UNIX, (values or [named.get("address", "")])[0])
    if kind not in ("tcp", "tcp6"):
        raise NotTried(f"an endpoint of the kind {kind} does not say where it is")
    given = dict(zip(("port", "interface"), values, strict=False)) | named
    port, host = int(given["port"]), given.get("interface", "")
    if port == 0:
        raise NotTried("the kernel chooses its port")
    if kind == "tcp6" or ":" in host:
        return Place(socket.AF_INET6, ("::1" if host in ("", "::") else host, port))
    return Place(socket.AF_INET, ("127.0.0.1" if host in ("", "0.0.0.0") else host, port))


def greeting(name: str, place: Place) -> str:
    """The first line that the listener called ``name`` says, without TLS.  Raises `NotServed`."""
    with _connected(place) as connection:
        return _Lines(connection).reply(name)


def certificate(name: str, place: Place, server_name: str | None) -> bytes:
    """The certificate (DER) that the listener called ``name`` shows a client that asks for ``server_name``.

    Raises `NotServed`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connected(place) as connection:
        if name not in INSIDE_TLS:
            _ask_for_tls(name, connection)
        try:
            with context.wrap_socket(connection, server_hostname=server_name) as inside:
                return inside.getpeercert(binary_form=True) or b""
        except OSError as error:  # ssl.SSLError is one
            raise NotServed(f"the TLS handshake failed ({_words(error)})") from error


def _connected(place: Place) -> closing[socket.socket]:
    connection = socket.socket(place.family, socket.SOCK_STREAM)
    connection.settimeout(SECONDS)
    try:
        connection.connect(place.address)
    except OSError as error:
        connection.close()
        raise NotServed(f"nobody answers ({_words(error)})") from error
    return closing(connection)


def _ask_for_tls(name: str, connection: socket.socket) -> None:
    lines = _Lines(connection)
    lines.reply(name)
    commands = ["STLS"] if name == "pop3" else ["EHLO localhost", "STARTTLS"]
    for command in commands:
        try:
            connection.sendall(f"{command}\r\n".encode("ascii"))
        except OSError as error:
            raise NotServed(f"{command} could not be said ({_words(error)})") from error
        lines.reply(name)


class _Lines:
    """Replies of a mail server, read octet by octet, so that nothing behind them is taken that belongs to TLS."""

    def __init__(self, connection: socket.socket) -> None:
        self._read: Callable[[], bytes] = lambda: connection.recv(1)

    def reply(self, name: str) -> str:
        """The last line of the next reply.  Raises `NotServed` unless it is a good one."""
        pattern = r"\+OK(?: |\Z)" if name.startswith("pop3") else r"2[0-9][0-9](?: |\Z)"
        for _ in range(_MOST_LINES):
            line = self._line()
            if re.match(pattern, line):
                return line
            if not re.match(r"2[0-9][0-9]-", line):
                raise NotServed(f"it answers {line!r}")
        raise NotServed("its answer has no end")

    def _line(self) -> str:
        octets = bytearray()
        try:
            while len(octets) < _LINE_LIMIT and not octets.endswith(b"\n"):
                octet = self._read()
                if not octet:
                    raise NotServed("it closes the connection at once")
                octets += octet
        except OSError as error:
            raise NotServed(f"it does not answer ({_words(error)})") from error
        return octets.decode("ascii", "backslashreplace").rstrip("\r\n")


def _words(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
