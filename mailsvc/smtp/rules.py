"""What a listener holds its clients to, and who decides what the server does not: two values for every session."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.gate.bodies import Bodies
from mailsvc.smtp.defaults import AnySender, LogJournal, NoMachines, NoMemory, OpenGate
from mailsvc.smtp.intake import Intake
from mailsvc.smtp.modes import Mode
from mailsvc.smtp.reception import BodyLimits
from mailsvc.smtp.seams import (
    Authenticator,
    ChannelMemory,
    Directory,
    Gate,
    Journal,
    Machines,
    Senders,
)
from mailsvc.wire.conversation import Patience


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener holds its clients to.

    ``command_line`` and ``auth_line``: octets with CRLF.  ``errors``: refused commands before 421 ends the session;
    ``messages``, ``commands`` and ``session_seconds`` are what one session may have in all.  ``hold_seconds``: how far
    ahead a user may have a message held (RFC 4865), 0 for not at all.  ``hold_reply``: for how many seconds at most the
    reply to a user's message waits for the first attempt to send it on.
    """

    mode: Mode
    hostname: str
    body: BodyLimits
    patience: Patience
    command_line: int = 2048
    auth_line: int = 12288
    recipients: int = 1000
    errors: int = 20
    messages: int = 1000
    commands: int = 50000
    session_seconds: float = 7200.0
    hold_seconds: int = 0
    hold_reply: float = 0.0


@dataclass(frozen=True, slots=True)
class Helpers:
    """Who decides what the server does not: see `mailsvc.smtp.seams`.

    ``bodies``: what all messages on their way in may hold together.
    """

    intake: Intake
    directory: Directory
    authenticator: Authenticator
    gate: Gate = field(default_factory=OpenGate)
    senders: Senders = field(default_factory=AnySender)
    machines: Machines = field(default_factory=NoMachines)
    memory: ChannelMemory = field(default_factory=NoMemory)
    journal: Journal = field(default_factory=LogJournal)
    bodies: Bodies = field(default_factory=Bodies)
