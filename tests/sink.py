"""A mail server of somebody else for tests with a real service: takes everything, in threads, with TLS when it has a
certificate.  Only that nobody is called ``nobody`` there."""

from __future__ import annotations

import queue
import socketserver
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pki import Certs


@dataclass(frozen=True)
class Arrived:
    """A message: its content with the lone dot taken off, and whether it came inside TLS."""

    sender: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    encrypted: bool


class Sink(socketserver.ThreadingTCPServer):
    """Listens on a port of 127.0.0.1 from the beginning; ``arrived`` gets the messages.  A context manager."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, certs: Certs | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Session)
        self.arrived: queue.Queue[Arrived] = queue.Queue()
        self.connections = 0
        self.context: ssl.SSLContext | None = None
        if certs is not None:
            folder = Path(certs.folder) / certs.hostname
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def __exit__(self, *args: Any) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Session(socketserver.StreamRequestHandler):
    server: Sink
    timeout = 60

    def handle(self) -> None:
        self.server.connections += 1
        self._encrypted = False
        sender, recipients = b"", list[bytes]()
        self._say(b"220 sink.example")
        while line := self.rfile.readline(4096):
            verb = line[:4].upper()
            if verb == b"EHLO":
                starttls = self.server.context is not None and not self._encrypted
                self._say(b"250-sink.example\r\n250-PIPELINING\r\n250 " + (b"STARTTLS" if starttls else b"8BITMIME"))
            elif verb == b"STAR" and self.server.context is not None:
                self._say(b"220 go ahead")
                self._begin_tls(self.server.context)
            elif verb == b"MAIL":
                sender, recipients = _path(line), []
                self._say(b"250 ok")
            elif verb == b"RCPT" and _path(line).startswith(b"nobody@"):
                self._say(b"550 5.1.1 no such user at all")
            elif verb == b"RCPT":
                recipients.append(_path(line))
                self._say(b"250 ok")
            elif verb == b"DATA" and not recipients:
                self._say(b"503 5.5.1 no recipients")
            elif verb == b"DATA":
                self._say(b"354 go on")
                content = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.arrived.put(Arrived(sender, tuple(recipients), content, self._encrypted))
                self._say(b"250 2.0.0 taken")
            elif verb == b"QUIT":
                self._say(b"221 bye")
                return
            else:
                self._say(b"250 ok")

    def _say(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")
        self.wfile.flush()

    def _begin_tls(self, context: ssl.SSLContext) -> None:
        self.request = context.wrap_socket(self.request, server_side=True)
        self._encrypted = True
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")


def _path(line: bytes) -> bytes:
    return line.partition(b"<")[2].partition(b">")[0]
