"""Which command may run when: the rules of an SMTP session as one table (RFC 5321 section 4.1.4, RFC 3207, RFC 4954).

`refusal` looks at a verb and the `Session` and gives the `Reply` that refuses it, or None when it may run.  What a
successful command changes is `dataclasses.replace` on the session, by the named functions below.  Nothing here knows
of sockets; the server asks, obeys, and keeps the value.

The hardest idea: TLS wipes the slate (RFC 3207 section 4.2).  `after_starttls` makes a new session instead of
clearing fields of the old one, so a field that is added tomorrow cannot be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from mailsvc.mail.address import Address
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.modes import Mode
from mailsvc.smtp.seams import Machine


class Phase(Enum):
    """How far the dialogue has come."""

    START = "nothing said"
    READY = "greeted, no transaction"
    MAIL = "sender given"
    RCPT = "sender and at least one recipient given"
    CHUNKS = "a part of the message has come by BDAT"


@dataclass(frozen=True, slots=True)
class Session:
    """What the dialogue has established.  ``helo`` is the client's claim; ``esmtp``: it said EHLO.

    ``machine``: who sends without a login, as of the last MAIL.
    """

    mode: Mode
    phase: Phase = Phase.START
    secured: bool = False
    helo: str = ""
    esmtp: bool = False
    login: Address | None = None
    account: int | None = None
    credential: str = ""
    changed: float | None = None
    machine: Machine | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and the message is not finished (RFC 5321 section 3.3)."""
        return self.phase in (Phase.MAIL, Phase.RCPT, Phase.CHUNKS)


_R, _M, _T, _C = Phase.READY, Phase.MAIL, Phase.RCPT, Phase.CHUNKS
_ANY = frozenset(Phase)

VERBS: dict[str, frozenset[Phase]] = {
    "EHLO": _ANY,
    "HELO": _ANY,
    "LHLO": _ANY,
    "STARTTLS": _ANY,
    "AUTH": frozenset({_R}),
    "MAIL": frozenset({_R}),
    "RCPT": frozenset({_M, _T}),
    "DATA": frozenset({_T}),
    "BDAT": frozenset({_T, _C}),
    "RSET": _ANY,
    "NOOP": _ANY,
    "QUIT": _ANY,
    "VRFY": _ANY,
    "HELP": _ANY,
}
"""Every verb that exists, and the phases in which it may run."""

GREETINGS = frozenset({"EHLO", "HELO", "LHLO"})
"""LMTP has its own, so that neither can be taken for the other (RFC 2033 section 4.1)."""

BEFORE_TLS = frozenset({"EHLO", "LHLO", "NOOP", "STARTTLS", "QUIT"})
"""All that is valid before TLS where TLS is required (RFC 3207 section 4)."""

WITHOUT_ARGUMENT = frozenset({"STARTTLS", "DATA", "RSET", "QUIT"})
"""An argument behind these is an error (RFC 5321 section 4.1.1, RFC 3207 section 4)."""

MUST_STARTTLS = reply(530, "5.7.0", "Must issue a STARTTLS command first")
_UNKNOWN = reply(500, "5.5.1", "Command not recognised")
_NO_ARGUMENT = reply(501, "5.5.4", "This command takes no argument")
_EHLO_FIRST = reply(503, "5.5.1", "Send EHLO first")
_MAIL_FIRST = reply(503, "5.5.1", "Send MAIL first")
_NO_RECIPIENT = reply(554, "5.5.1", "No valid recipients")
_DATA_AFTER_BDAT = reply(503, "5.5.1", "The message has begun with BDAT; go on with it, or RSET")
_NESTED_MAIL = reply(503, "5.5.1", "A transaction is open already; RSET ends it")
_LMTP_ONLY = reply(500, "5.5.1", "This is SMTP; send EHLO")
_NOT_LMTP = reply(500, "5.5.1", "This is LMTP; send LHLO")
_LHLO_FIRST = reply(503, "5.5.1", "Send LHLO first")
_LMTP_NO_RECIPIENT = reply(503, "5.5.1", "No valid recipients")
_NO_TLS = reply(502, "5.5.1", "TLS is not offered here")
_TLS_ALREADY = reply(503, "5.5.1", "TLS is active already")
_NO_AUTH = reply(502, "5.5.1", "AUTH is not offered here")
_AUTH_ALREADY = reply(503, "5.5.1", "Already authenticated")
_AUTH_IN_TRANSACTION = reply(503, "5.5.1", "AUTH is not permitted during a mail transaction")
_LOGIN_FIRST = reply(530, "5.7.0", "Authentication required")


def refusal(verb: str, argument: str, session: Session) -> Reply | None:
    """The reply that refuses ``verb`` (upper case) in this session, or None when it may run."""
    if session.mode.requires_tls and not session.secured and verb not in BEFORE_TLS:
        return MUST_STARTTLS
    if verb not in VERBS:
        return _UNKNOWN
    if verb in GREETINGS and (verb == "LHLO") != session.mode.lmtp:
        return _NOT_LMTP if session.mode.lmtp else _LMTP_ONLY
    if argument and verb in WITHOUT_ARGUMENT:
        return _NO_ARGUMENT
    if verb == "STARTTLS" and not session.mode.offers_tls:
        return _NO_TLS
    if verb == "STARTTLS" and session.secured:
        return _TLS_ALREADY
    if verb == "AUTH" and not (session.mode.offers_auth and session.secured):
        return _NO_AUTH
    if verb == "AUTH" and session.login is not None:
        return _AUTH_ALREADY
    if session.phase not in VERBS[verb]:
        return _out_of_order(verb, session)
    if verb == "AUTH" and not session.esmtp:
        return _EHLO_FIRST
    if verb == "MAIL" and wants_login(session) and session.machine is None:
        return _LOGIN_FIRST
    return None


def wants_login(session: Session) -> bool:
    """Whether nobody may send here yet: a login is needed, and there was none."""
    return session.mode.requires_login and session.login is None


def _out_of_order(verb: str, session: Session) -> Reply:
    if session.phase is Phase.START:
        return _LHLO_FIRST if session.mode.lmtp else _EHLO_FIRST
    if verb == "AUTH":
        return _AUTH_IN_TRANSACTION
    if verb == "MAIL":
        return _NESTED_MAIL
    if session.phase is Phase.CHUNKS:
        # RFC 3030 section 2: one transaction has either DATA or BDAT, and recipients come before.
        return _DATA_AFTER_BDAT
    if session.phase is Phase.MAIL:
        # RFC 5321 section 3.3, and RFC 2033 section 4.2 for LMTP.
        return _LMTP_NO_RECIPIENT if session.mode.lmtp else _NO_RECIPIENT
    return _MAIL_FIRST


def after_greeting(session: Session, helo: str, *, esmtp: bool) -> Session:
    """EHLO or HELO was accepted; it also ends a transaction (RFC 5321 section 4.1.4)."""
    return replace(session, phase=Phase.READY, helo=helo, esmtp=esmtp)


def after_starttls(session: Session) -> Session:
    """The TLS handshake is done: all that was said in clear is forgotten."""
    return Session(session.mode, secured=True)


def after_login(
    session: Session, login: Address, account: int, credential: str = "", changed: float | None = None
) -> Session:
    """AUTH succeeded; ``account`` is the row id of the account, the rest tells by what."""
    return replace(session, login=login, account=account, credential=credential, changed=changed, machine=None)


def after_recognition(session: Session, machine: Machine | None) -> Session:
    """The client's certificate was looked up at MAIL."""
    return replace(session, machine=machine)


def after_mail(session: Session) -> Session:
    """MAIL was accepted."""
    return replace(session, phase=Phase.MAIL)


def after_rcpt(session: Session) -> Session:
    """RCPT was accepted."""
    return replace(session, phase=Phase.RCPT)


def after_chunk(session: Session) -> Session:
    """BDAT without LAST was answered."""
    return replace(session, phase=Phase.CHUNKS)


def after_transaction(session: Session) -> Session:
    """The transaction is over: RSET, or a message that was taken or refused."""
    return replace(session, phase=Phase.READY) if session.phase not in (Phase.START, Phase.READY) else session
