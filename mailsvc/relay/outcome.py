"""What became of one recipient in one attempt: a value that the queue, the reports and the events are made from.

Pure.  Making one is left to `mailsvc.relay.delivery` and `mailsvc.relay.client`, which saw it happen; when to try again
is `mailsvc.relay.schedule`'s, whether another host is tried `mailsvc.relay.attempt`'s (`Outcome.elsewhere` is advice).

The hardest idea is what a failure means.  Only a server that answered a command about *this* mail with 5xx makes it
permanent (RFC 5321 section 4.2.1).  Whatever happened to the connection, to TLS or to our login is temporary: it is
about us, the way, or the moment, and a bounce for it would give up mail that a postmaster can still save.  And one
moment is special: between the end of the content and its reply nobody knows whether the server has the message (RFC
1047).  It is tried again, because a lost message is worse, and `Outcome.duplicate_possible` says so in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from mailsvc.mail.channel import safe_text
from mailsvc.relay.replies import PeerReply
from mailsvc.tls.levels import Level

TEXT_LIMIT = 1000
"""Characters of `Outcome.text`: it goes into rows, events and reports."""


class Kind(Enum):
    """What is to be done next about a recipient."""

    DELIVERED = "delivered"
    """The server has taken responsibility (RFC 5321 section 6.1)."""
    DEFERRED = "deferred"
    """Not now; try again."""
    FAILED = "failed"
    """Never: report it to the sender."""


class Phase(Enum):
    """Where in the conversation it was decided."""

    CONNECT = "connecting"
    GREETING = "the greeting"
    HELLO = "EHLO"
    TLS = "TLS"
    AUTH = "AUTH"
    RESET = "RSET"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    CONTENT = "the content"
    END = "the message"
    QUIT = "QUIT"


_ABOUT_THE_HOST = (Phase.CONNECT, Phase.GREETING, Phase.HELLO, Phase.TLS, Phase.AUTH)
_LOGIN = (530, 534, 535, 538)
"""RFC 4954 section 6: our login is missing or not good enough, whatever command it is said to."""
_ABOUT_US = (*_ABOUT_THE_HOST, Phase.RESET, Phase.QUIT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recipient.

    ``text``: a sentence for people, printable ASCII, without a period.  ``code``: the server's, 0 when it is our own
    conclusion.  ``enhanced``: the status code of RFC 3463, never "".  ``host``: which server, "" before there was one.
    ``level`` and ``tls``: what the channel really was ("" without TLS); ``required``: what it had to be.
    ``duplicate_possible``: the server may have the message although it is tried again.  ``dsn``: the server has
    taken over what the sender wants to be told (DSN, RFC 3461 section 5.2.1), so that nothing is to be reported here.
    ``reply``: what the server said, word for word but printable; "" when it is our own conclusion.
    """

    kind: Kind
    text: str
    code: int = 0
    enhanced: str = ""
    phase: Phase = Phase.CONNECT
    host: str = ""
    level: Level = Level.PLAIN
    required: Level = Level.PLAIN
    tls: str = ""
    duplicate_possible: bool = False
    dsn: bool = False
    reply: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", safe_text(self.text, TEXT_LIMIT))
        object.__setattr__(self, "reply", safe_text(self.reply, TEXT_LIMIT))
        if not self.enhanced:
            object.__setattr__(self, "enhanced", _ENHANCED[self.kind])

    @property
    def elsewhere(self) -> bool:
        """Whether another host of the same destination may do better *now* (RFC 5321 section 5.1).

        A decision about the mail itself (5xx to RCPT) is the destination's; what only this host could not do is not.
        Never after the end of the content: another host would make a duplicate at once.
        """
        if self.kind is Kind.DELIVERED or self.duplicate_possible:
            return False
        return self.phase in _ABOUT_THE_HOST or self.code == 0 or 400 <= self.code < 500

    def on(self, host: str, level: Level, required: Level, tls: str) -> Outcome:
        """The same with the facts of the channel."""
        return replace(self, host=host, level=level, required=required, tls=tls)


_ENHANCED = {Kind.DELIVERED: "2.0.0", Kind.DEFERRED: "4.0.0", Kind.FAILED: "5.0.0"}


def by_reply(reply: PeerReply, phase: Phase, host: str = "") -> Outcome:
    """What a reply decides.  A refusal of our host or of our login is temporary: it is about us, not about the mail."""
    if reply.code < 400:
        kind = Kind.DELIVERED
    elif reply.code == 521:
        kind = Kind.FAILED  # RFC 7504 section 3: a host that never takes mail
    elif reply.is_temporary or phase in _ABOUT_US or reply.code in _LOGIN:
        kind = Kind.DEFERRED
    elif phase is Phase.RCPT and reply.code == 552:
        # RFC 5321 section 4.5.3.1.10: 552 for "too many recipients" is to be read as 452.
        kind = Kind.DEFERRED
    else:
        kind = Kind.FAILED
    enhanced = reply.enhanced
    if enhanced[:1] != _ENHANCED[kind][:1]:
        enhanced = _ENHANCED[kind][:1] + enhanced[1:] if enhanced else ""
    said = f"{host or 'the server'} answered {phase.value} with {reply}"
    return Outcome(kind, said, reply.code, enhanced, phase, host, reply=str(reply))


def by_lost_connection(why: str, phase: Phase, host: str = "") -> Outcome:
    """The connection is gone, or cannot be used any more; ``why`` is a sentence without a period."""
    unknown = phase is Phase.END
    text = f"{why}; the message may have arrived all the same, and is tried again" if unknown else why
    return Outcome(Kind.DEFERRED, text, 0, "4.4.2", phase, host, duplicate_possible=unknown)


def by_timeout(why: str, phase: Phase, host: str = "") -> Outcome:
    """The server took too long."""
    outcome = by_lost_connection(why, phase, host)
    return replace(outcome, enhanced="4.4.1" if phase is Phase.CONNECT else "4.4.2")


def by_no_connection(why: str, host: str = "") -> Outcome:
    """There is no connection."""
    return Outcome(Kind.DEFERRED, why, 0, "4.4.1", Phase.CONNECT, host)


def by_tls(why: str, host: str = "", *, refused: bool = False) -> Outcome:
    """The channel is less than it must be; ``refused``: because of what the server's certificate shows.

    Temporary, as RFC 8461 section 5 and RFC 7672 section 2.2 want it: attacks end, and certificates are renewed.
    """
    return Outcome(Kind.DEFERRED, why, 0, "4.7.5" if refused else "4.7.10", Phase.TLS, host)


def by_protocol(why: str, phase: Phase, host: str = "") -> Outcome:
    """The server said what it may not say there (RFC 3463: X.5.0)."""
    return replace(by_lost_connection(why, phase, host), enhanced="4.5.0")


def refused_here(why: str, enhanced: str, phase: Phase = Phase.HELLO, host: str = "") -> Outcome:
    """The mail cannot be given to this server because of what it is; ``enhanced`` says whether for ever (5.x.y)."""
    kind = Kind.FAILED if enhanced.startswith("5") else Kind.DEFERRED
    return Outcome(kind, why, 0, enhanced, phase, host)
