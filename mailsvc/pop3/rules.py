"""What a POP3 listener holds its clients to."""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.wire.conversation import Patience


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener holds its clients to; ``command_line`` in octets with CRLF, ``errors`` before it ends."""

    name: str
    implicit_tls: bool
    hostname: str
    patience: Patience
    command_line: int = 2048
    errors: int = 20
