"""A scripted mail client for tests: says exactly the bytes that it is told to, and reads what comes back.

Python's own clients are polite; this one can pipeline, send headers of a megabyte, and stop in the middle.  Blocking,
with a time limit on every wait, for tests whose service is another process.
"""

from __future__ import annotations

import base64
import socket
import ssl
from types import TracebackType
from typing import Self

SECONDS = 180.0


class Peer:
    """One connection to 127.0.0.1; `tls` says that the handshake comes first."""

    def __init__(self, port: int, ca: str, *, tls: bool) -> None:
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        # A body and its end are two small writes: Nagle's algorithm would make 40 ms of them.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ca = ca
        self._buffer = bytearray()
        if tls:
            self.start_tls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, without another word."""
        self._socket.close()

    def start_tls(self) -> None:
        """Handshake, with the certificate checked against the CA and the name localhost."""
        context = ssl.create_default_context(cafile=self._ca)
        # Without suppress_ragged_eofs=False a cut connection would look like one that ended with close_notify.
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost", suppress_ragged_eofs=False)

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self._socket.sendall(data)

    def line(self) -> bytes:
        """The next line, without its CRLF."""
        return self._until(b"\r\n")[:-2]

    def dotted(self) -> bytes:
        """The next multi-line block up to its dot, dots unstuffed: what POP3 sends behind +OK."""
        if self._peek(3) == b".\r\n":
            del self._buffer[:3]
            return b""
        block = self._until(b"\r\n.\r\n")[:-3]
        block = block[1:] if block.startswith(b"..") else block
        return block.replace(b"\r\n..", b"\r\n.")

    def reply(self) -> list[bytes]:
        """The lines of the next SMTP reply."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return lines

    def smtp(self, command: bytes) -> bytes:
        """Send an SMTP command; the last line of its reply."""
        self.send(command + b"\r\n")
        return self.reply()[-1]

    def pop3(self, command: bytes) -> bytes:
        """Send a POP3 command; the first line of its reply."""
        self.send(command + b"\r\n")
        return self.line()

    def at_end(self) -> bool:
        """Whether the other side has ended the connection, with nothing more to say.

        Inside TLS it must have said so by close_notify: raises ssl.SSLEOFError when the connection was only cut.
        """
        return not self._buffer and self._socket.recv(1) == b""

    def _peek(self, octets: int) -> bytes:
        while len(self._buffer) < octets:
            self._receive()
        return bytes(self._buffer[:octets])

    def _until(self, end: bytes) -> bytes:
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            self._receive()
        block = bytes(self._buffer[: found + len(end)])
        del self._buffer[: found + len(end)]
        return block

    def _receive(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionAbortedError(f"the connection ended, before that came {bytes(self._buffer[-300:])!r}")
        self._buffer += data


def plain(address: str, password: str) -> bytes:
    """AUTH PLAIN with an initial response (RFC 4616)."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{address}\0{password}".encode())


def submission_session(port: int, ca: str, address: str, password: str, *, tls: bool) -> Peer:
    """A session on a listener for users, logged in; `tls` is for the one with TLS from the start."""
    peer = Peer(port, ca, tls=tls)
    peer.reply()
    if not tls:
        peer.smtp(b"EHLO client.example.org")
        assert peer.smtp(b"STARTTLS").startswith(b"220 ")
        peer.start_tls()
    peer.smtp(b"EHLO client.example.org")
    said = peer.smtp(plain(address, password))
    assert said.startswith(b"235 "), said
    return peer


def pop3_session(port: int, ca: str, address: str, password: str, *, tls: bool) -> Peer:
    """A POP3 session, logged in."""
    peer = Peer(port, ca, tls=tls)
    peer.line()
    if not tls:
        assert peer.pop3(b"STLS").startswith(b"+OK")
        peer.start_tls()
    assert peer.pop3(b"USER " + address.encode()).startswith(b"+OK")
    said = peer.pop3(b"PASS " + password.encode())
    assert said.startswith(b"+OK"), said
    return peer


def send_message(peer: Peer, sender: str, recipient: str, body: bytes) -> bytes:
    """One transaction; the last reply.  The body is stuffed here, and gets a last CRLF where it has none."""
    for command in (f"MAIL FROM:<{sender}> BODY=8BITMIME", f"RCPT TO:<{recipient}>", "DATA"):
        said = peer.smtp(command.encode())
        assert said[:1] in b"23", said
    stuffed = body.replace(b"\r\n.", b"\r\n..")
    peer.send(b"." + stuffed if stuffed.startswith(b".") else stuffed)
    peer.send(b".\r\n" if body.endswith(b"\r\n") or not body else b"\r\n.\r\n")
    return peer.reply()[-1]
