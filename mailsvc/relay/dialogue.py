"""How the client's side of a conversation is written: generators that say what they want, and the session they share.

`mailsvc.relay.opening` goes from the first octet to a session that may take mail, `mailsvc.relay.delivery` gives it one
message.  Both are generators: they yield what they want (`Say`, `Hear`, `BeginTLS`, ...) and are sent the answer.  So
they read from top to bottom like the RFCs, and their tests need no network.  Octets, clocks and TLS are
`mailsvc.relay.client`'s, which says `Broken` into the generator when the connection is of no more use.

The hardest idea: whoever drives a generator has no choices.  It cannot leave out a check, send a line early or believe
a channel, because everything that decides is on this side, and every want says all that is needed to fulfil it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mailsvc.relay.eightbit import Survey
from mailsvc.relay.logins import RelayLogin
from mailsvc.relay.outcome import Outcome, Phase, by_lost_connection, by_protocol, by_timeout
from mailsvc.relay.outgoing import Timeouts
from mailsvc.relay.replies import PeerReply
from mailsvc.relay.url import Tls
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity

T = TypeVar("T")

CHUNK = 262144
"""Octets of the content that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command without its line end; ``shown`` stands for it in the record when it holds a secret."""

    text: str = field(repr=False)
    shown: str = ""

    def __post_init__(self) -> None:
        if "\r" in self.text or "\n" in self.text:
            raise ValueError("a command is one line")


@dataclass(frozen=True, slots=True)
class Say:
    """Send these lines in one write.  Nothing that the server has sent may be unread before."""

    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Hear:
    """The next reply within so many seconds; the answer is a `PeerReply`."""

    phase: Phase
    seconds: float


@dataclass(frozen=True, slots=True)
class BeginTLS:
    """The handshake; the answer is a `Secured`, and a server that proves too little is said as `Broken`."""


@dataclass(frozen=True, slots=True)
class Secured:
    """A handshake whose result is good enough for the policy; ``binding``: tls-exporter data (RFC 9266), or None."""

    identity: ServerIdentity
    binding: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LookThrough:
    """Read the content once; the answer is its `Survey`."""


@dataclass(frozen=True, slots=True)
class OpenContent:
    """Begin with the content; ``survey``: converted to seven bits as it says."""

    survey: Survey | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The next octets of the content, `CHUNK` at most; the answer is (octets, whether they are the last)."""


@dataclass(frozen=True, slots=True)
class Octets:
    """Send these, and wait while the server takes them slowly.

    ``quiet``: the server has nothing to say yet; a reply that is there before they are sent is said as `Early`.
    ``last``: a reply is awaited next, so that there is no waiting here.
    """

    data: bytes = field(repr=False)
    quiet: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """A line of ours for the record."""

    text: str


Steps = Generator[Any, Any, T]
"""Yields the wants above; returns a T."""


class Broken(Exception):
    """The connection is of no more use; why, as a sentence without a period.

    ``timeout``: the server took too long; ``faulty``: it said what it may not say; ``refused``: what its certificate
    shows is too little; ``injected``: it, or somebody on the way, answered before it was asked; ``tls``: TLS failed;
    ``cancelled``: we have ended it ourselves.
    """

    def __init__(
        self,
        why: str,
        *,
        timeout: bool = False,
        faulty: bool = False,
        refused: bool = False,
        injected: bool = False,
        tls: bool = False,
        cancelled: bool = False,
    ) -> None:
        super().__init__(why)
        self.timeout = timeout
        self.faulty = faulty
        self.refused = refused
        self.injected = injected
        self.tls = tls
        self.cancelled = cancelled

    def outcome(self, phase: Phase, host: str) -> Outcome:
        """What it means for a recipient."""
        made = by_protocol if self.faulty or self.injected else by_timeout if self.timeout else by_lost_connection
        return made(f"{host}: {self}", phase, host)


class Early(Exception):
    """A reply has come before the content was sent."""

    def __init__(self, reply: PeerReply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session must be.

    ``host``: the server's name, for sentences.  ``hostname``: ours, for EHLO.  ``tls``: never EITHER.  ``demanded``:
    the least level.  ``local``: a UNIX socket, which nobody on a network can listen to.
    """

    host: str
    hostname: str
    tls: Tls
    demanded: Level
    lmtp: bool = False
    local: bool = False
    login: RelayLogin | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Session:
    """A session that may take mail.  ``keywords``: what its last EHLO said, in upper case, with their parameters."""

    terms: Terms
    keywords: Mapping[str, str]
    secured: Secured | None = None

    @property
    def level(self) -> Level:
        """What the channel proves."""
        return Level.PLAIN if self.secured is None else self.secured.identity.level

    @property
    def tls(self) -> str:
        """The channel in words; "" without TLS."""
        if self.secured is None:
            return ""
        identity = self.secured.identity
        parts = [identity.version, identity.cipher or "", identity.group or "", "resumed" if identity.resumed else ""]
        return " ".join(part for part in parts if part)

    def limit(self, name: str) -> int | None:
        """A number of LIMITS (RFC 9422 section 4); None when the server gives none."""
        for word in self.keywords.get("LIMITS", "").upper().split():
            key, _, value = word.partition("=")
            if key == name and _is_number(value) and 0 < int(value) < 1_000_000:
                return int(value)
        return None

    @property
    def size_limit(self) -> int:
        """Octets of a message that the server takes (RFC 1870 section 4); 0 when it does not say."""
        value = self.keywords.get("SIZE", "").partition(" ")[0]
        return int(value) if _is_number(value) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def ask(text: str, phase: Phase, seconds: float, shown: str = "") -> Steps[PeerReply]:
    """Say one line, and hear its reply."""
    yield Say((Line(text, shown),))
    reply: PeerReply = yield Hear(phase, seconds)
    return reply
