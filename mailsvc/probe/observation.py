"""What a probe has seen of a server, as a value: who said what, what was shown, and where it ended.

`mailsvc.probe.session` makes it, `mailsvc.probe.conclusion` judges it.  Every outcome has an exit status of its own,
so that a script can tell a server without TLS from one that is down.

Everything in it that a stranger sent is printable ASCII and bounded when the value is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mailsvc.relay.replies import Dialect, PeerReply
from mailsvc.tls.observation import ServerIdentity

LINE_LIMIT = 300
"""Characters of a line that are shown."""

DIALOGUE_LIMIT = 400
"""Lines of a dialogue that are kept."""


class Talk(Enum):
    """What is spoken with the server."""

    SMTP = "smtp"
    LMTP = "lmtp"
    POP3 = "pop3"
    IMAP = "imap"
    NOTHING = "nothing"
    """The TLS handshake is all."""

    @property
    def dialect(self) -> Dialect:
        """How its replies look."""
        return {Talk.POP3: Dialect.POP3, Talk.IMAP: Dialect.IMAP}.get(self, Dialect.SMTP)

    @property
    def port(self) -> int:
        """Where it is spoken with STARTTLS when nobody says where."""
        return {Talk.LMTP: 24, Talk.POP3: 110, Talk.IMAP: 143, Talk.NOTHING: 443}.get(self, 25)


class Outcome(Enum):
    """How it ended; the value is the exit status.  1 and 2 are not here: mailsvc itself failed, or was used wrong."""

    VERIFIED = 0
    """TLS, the server's name verified (PKIX or DANE), and nothing that is published or remembered demands more."""
    UNVERIFIED = 3
    """TLS, but the server proves less than its name, or less than is demanded of it."""
    NO_TLS = 4
    """The server answers and does not offer TLS, or refuses it."""
    HANDSHAKE = 5
    """TLS was begun and did not come about."""
    BROKEN = 6
    """The server, or somebody on the way, breaks the protocol in a way that may be an attack."""
    UNREACHED = 7
    """There is no such host, nobody answers, or it answers too late or not to us."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to go, and how.

    ``host`` and ``port``: where the connection goes.  ``at_once``: TLS from the first octet instead of STARTTLS.
    ``server_name``: what the certificate must name.  ``helo``: what we call ourselves.  ``sender``: an address for
    which MAIL FROM is tried inside TLS ("" for none; SMTP and LMTP).  ``path``: of a UNIX socket, in place of host and
    port, which are then "" and 0.
    """

    host: str
    port: int
    talk: Talk
    at_once: bool
    server_name: str
    helo: str = "localhost"
    sender: str = ""
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"unix:{self.path}" if self.path else f"{host}:{self.port}"
        how = "TLS from the first octet" if self.at_once else "STLS" if self.talk is Talk.POP3 else "STARTTLS"
        what = "" if self.talk is Talk.NOTHING else f"{self.talk.name}, "
        return f"{place}, {what}{how}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line of the dialogue: ``who`` is C for us, S for the server, - for what happened without words."""

    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Why it ended before everything was seen, as a sentence without a period."""

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was seen of a server.

    ``peer``: its address.  ``in_clear`` and ``inside``: what it offered before and inside TLS, None when it was not
    asked.  ``identity``: what the handshake showed, None without one.  ``staple``: its OCSP response (DER), b"" for
    none.  ``wants``: the CAs of which it takes client certificates, if it asks for one.  ``remarks``: what else is odd.
    """

    target: Target
    peer: str = ""
    dialogue: tuple[Spoken, ...] = ()
    in_clear: tuple[str, ...] | None = None
    inside: tuple[str, ...] | None = None
    identity: ServerIdentity | None = None
    staple: bytes = field(default=b"", repr=False)
    wants: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    stop: Stop | None = None


def spoken(talk: Talk, reply: PeerReply) -> tuple[Spoken, ...]:
    """A reply as lines of a dialogue."""
    last = len(reply.lines) - 1
    shown = []
    for number, line in enumerate(reply.lines):
        if talk is Talk.POP3:
            text = f"{'+OK' if reply.is_positive else '-ERR'} {line}"
        elif talk is Talk.IMAP:
            text = line
        else:
            text = f"{reply.code}{' ' if number == last else '-'}{line}"
        shown.append(Spoken("S", cut(text.rstrip())))
    return tuple(shown)


def cut(text: str) -> str:
    """A line that is not longer than `LINE_LIMIT`."""
    return text if len(text) <= LINE_LIMIT else text[: LINE_LIMIT - 3] + "..."


def changes(in_clear: tuple[str, ...], inside: tuple[str, ...]) -> tuple[str, ...]:
    """What a server offers differently inside TLS, as sentences without a period.

    That AUTH comes and STARTTLS goes is as it should be (RFC 3207 section 4.2); everything else deserves a look,
    because what was said in clear may have been changed on the way.
    """
    before, after = _keywords(in_clear), _keywords(inside)
    told = []
    if "STARTTLS" in after or "STLS" in after:
        told.append("inside TLS it offers TLS once more, which RFC 3207 section 4.2 forbids")
    gone = [line for word, line in before.items() if word not in after and word not in ("STARTTLS", "STLS", *_IN_CLEAR)]
    if gone:
        told.append(f"in clear it offered what it does not offer inside TLS: {_few(gone)}")
    new = [line for word, line in after.items() if word not in before and word not in _LATER | {"STARTTLS", "STLS"}]
    if new:
        told.append(f"inside TLS it offers more: {_few(new)}")
    other = [
        f"{before[word]!r} became {after[word]!r}" for word in before if word in after and before[word] != after[word]
    ]
    other = [each for each in other if not each.startswith(("'AUTH", "'SASL"))]
    if other:
        told.append(f"inside TLS it says otherwise: {_few(other)}")
    if any(
        word == "AUTH" or word.startswith("AUTH=PLAIN") or line.upper() == "SASL PLAIN" for word, line in before.items()
    ):
        told.append("it offers AUTH in clear: passwords can be read by everybody on the way")
    return tuple(cut(each) for each in told)


_IN_CLEAR = frozenset({"LOGINDISABLED"})
_LATER = frozenset({"AUTH", "SASL", "USER", "REQUIRETLS", "LOGIN", "UTF8", "LANG"})
"""What good servers offer only inside TLS."""


def _keywords(lines: tuple[str, ...]) -> dict[str, str]:
    return {line.partition(" ")[0].upper(): line for line in lines if line.strip()}


def _few(items: list[str], most: int = 8) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
