"""From the first octet to a session that may take mail: greeting, EHLO, STARTTLS, AUTH (RFC 5321, 3207, 4954, 2033).

Sans-I/O (`mailsvc.relay.dialogue`).  Which of several ways, addresses and ports is tried is `mailsvc.relay.client`'s.

The hardest idea: the channel is judged before the first word that matters, and what was heard before the judgement is
forgotten.  The keywords of an EHLO in clear live only until the handshake (RFC 3207 section 4.2); a channel that proves
less than is demanded ends in `Refused`, and there is no way from there to AUTH or to a session.  So nothing that a
server leaves out, refuses or garbles makes the demand smaller: it can only end the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mailsvc.errors import MailsvcError
from mailsvc.relay.dialogue import BeginTLS, Broken, Hear, Remark, Secured, Session, Steps, Terms, ask
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_protocol, by_reply, by_tls, refused_here
from mailsvc.relay.outgoing import MASK
from mailsvc.relay.replies import PeerReply
from mailsvc.relay.url import Tls
from mailsvc.sasl.base64 import decode, encode
from mailsvc.sasl.client import Login, LoginFailed, Secret, choices
from mailsvc.sasl.exchange import MalformedResponse
from mailsvc.tls.levels import Level

AUTH_LINE_LIMIT = 12288
"""Octets of an AUTH command with its initial response (RFC 4954 section 4)."""

CHALLENGES_LIMIT = 8
"""Challenges of one exchange; no mechanism here has more than three."""

_TRY_HELO = (500, 502, 504)


class Refused(MailsvcError):
    """There is no session; `outcome` says why.

    ``orderly``: the server still listens, so that QUIT is polite.  ``broken``: what happened to the connection.
    """

    def __init__(self, outcome: Outcome, *, orderly: bool = True, broken: Broken | None = None) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.orderly = orderly
        self.broken = broken


def check(terms: Terms) -> None:
    """Raise `Refused` for what no server can fulfil: there is no reason to connect."""
    if terms.tls is Tls.NEVER and terms.demanded > Level.PLAIN:
        raise Refused(by_tls(_demands(terms, "the relay's URL never uses TLS"), terms.host), orderly=False)


def opening(terms: Terms) -> Steps[Session]:
    """From the connection to a session that is good enough for ``terms``.  Raises `Refused`."""
    check(terms)
    host = terms.host
    phase = Phase.TLS if terms.tls is Tls.IMPLICIT else Phase.GREETING
    secured: Secured | None = None
    try:
        if terms.tls is Tls.IMPLICIT:
            secured = yield BeginTLS()
        phase = Phase.GREETING
        greeting: PeerReply = yield Hear(phase, terms.timeouts.greeting)
        if greeting.code != 220:
            raise _refusal(greeting, phase, host)
        phase = Phase.HELLO
        keywords = yield from _hello(terms)
        if terms.tls in (Tls.TRY, Tls.MUST):
            phase = Phase.TLS
            secured = yield from _starttls(terms, keywords)
            if secured is not None:
                phase = Phase.HELLO
                keywords = yield from _hello(terms)
        session = Session(terms, keywords, secured)
        if session.level < terms.demanded:
            raise Refused(by_tls(_demands(terms, f"the channel is {session.level.text}"), host))
        if terms.login is not None:
            phase = Phase.AUTH
            yield from _log_in(session, terms.login)
    except Refused as refused:
        outcome = refused.outcome
        if outcome.kind is Kind.FAILED and secured is None and terms.demanded > Level.PLAIN:
            # Anybody on the way may have said that: where TLS is demanded, words in clear give no mail up.
            outcome = replace(outcome, kind=Kind.DEFERRED, enhanced=f"4{outcome.enhanced[1:]}")
            raise Refused(outcome, orderly=refused.orderly, broken=refused.broken) from refused
        raise
    except Broken as broken:
        if broken.refused:
            outcome = by_tls(f"{host}: {broken}", host, refused=True)
        else:
            outcome = broken.outcome(phase, host)
        raise Refused(outcome, orderly=False, broken=broken) from broken
    return session


def _demands(terms: Terms, but: str) -> str:
    least = max(terms.demanded, Level.ENCRYPTED)
    return f"{terms.host}: {but}; demanded is: {least.text}"


def _refusal(reply: PeerReply, phase: Phase, host: str) -> Refused:
    if reply.code < 400:
        text = f"{host} answered {phase.value} with {reply}, which has no meaning there"
        return Refused(by_protocol(text, phase, host), orderly=False)
    return Refused(by_reply(reply, phase, host), orderly=reply.code != 421)


def _hello(terms: Terms) -> Steps[Mapping[str, str]]:
    verb = "LHLO" if terms.lmtp else "EHLO"
    reply = yield from ask(f"{verb} {terms.hostname}", Phase.HELLO, terms.timeouts.hello)
    if reply.code == 250:
        return _keywords(reply)
    if terms.lmtp or reply.code not in _TRY_HELO:
        raise _refusal(reply, Phase.HELLO, terms.host)
    reply = yield from ask(f"HELO {terms.hostname}", Phase.HELLO, terms.timeouts.hello)
    if reply.code != 250:
        raise _refusal(reply, Phase.HELLO, terms.host)
    return {}


def _keywords(reply: PeerReply) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in reply.lines[1:]:
        word, _, rest = line.strip().partition(" ")
        found.setdefault(word.upper(), rest.strip())
    return found


def _starttls(terms: Terms, keywords: Mapping[str, str]) -> Steps[Secured | None]:
    """TLS, or None to go on in clear where that is allowed.  Raises `Refused`."""
    host = terms.host
    needed = terms.tls is Tls.MUST or terms.demanded > Level.PLAIN
    if "STARTTLS" not in keywords:
        if needed:
            raise Refused(by_tls(_demands(terms, "the server does not offer STARTTLS"), host))
        yield Remark("STARTTLS is not offered, and nothing better than plain text is demanded")
        return None
    reply = yield from ask("STARTTLS", Phase.TLS, terms.timeouts.hello)
    if reply.code != 220:
        if reply.code == 421:
            raise _refusal(reply, Phase.TLS, host)
        if needed:
            raise Refused(by_tls(_demands(terms, f"the server answered STARTTLS with {reply}"), host))
        yield Remark("STARTTLS was refused, and nothing better than plain text is demanded")
        return None
    secured: Secured = yield BeginTLS()
    return secured


def _log_in(session: Session, login: RelayLogin) -> Steps[None]:
    terms, host = session.terms, session.terms.host
    if session.secured is None and not terms.local:
        text = f"{host}: the channel is not encrypted, so that no login is sent"
        raise Refused(refused_here(text, "4.7.0", Phase.AUTH, host))
    binding = None if session.secured is None else session.secured.binding
    secret = _secret(login)
    offered = session.keywords.get("AUTH", "").upper().split()
    if login.mechanisms and "SCRAM-SHA-256-PLUS" not in login.mechanisms:
        # RFC 5802 section 6: who says that he could bind, and does not to a server that offers it, is refused.
        binding = None
    names = choices(offered, secret, binding=binding, allowed=login.mechanisms)
    if not names:
        text = f"{host}: no login with the credentials {login.label}: the server offers {' '.join(offered) or 'none'}"
        if login.mechanisms:
            text += f", allowed is {' '.join(login.mechanisms)}"
        raise Refused(refused_here(text, "4.7.0", Phase.AUTH, host))
    for name in names:
        reply = yield from _exchange(terms, secret, binding, name)
        if reply.code == 235:
            return
        if reply.code not in (432, 504, 534):  # not by this mechanism; perhaps by another
            break
    refusal = _refusal(reply, Phase.AUTH, host)
    if reply.code == 535 and name.startswith("SCRAM") and "PLAIN" in offered and not login.mechanisms:
        hint = (
            "; where the password is right, the server may have none for SCRAM: then allow this login only PLAIN"
            " (--mechanism PLAIN of mailsvc route credentials add, or of mailsvc send)"
        )
        outcome = replace(refusal.outcome, text=refusal.outcome.text + hint)
        raise Refused(outcome, orderly=refusal.orderly)
    raise refusal


def _secret(login: RelayLogin) -> Secret:
    match login.kind:
        case LoginKind.PASSWORD:
            return Secret(login.user, password=login.secret)
        case LoginKind.TOKEN:
            return Secret(login.user, token=login.secret)
        case LoginKind.CERTIFICATE:
            return Secret(login.user, certificate=True, authzid=login.user)


def _exchange(terms: Terms, secret: Secret, binding: bytes | None, name: str) -> Steps[PeerReply]:
    """One AUTH command, to the reply that ends it.  Raises `Refused`."""
    host, seconds = terms.host, terms.timeouts.auth
    try:
        login = Login(name, secret, binding=binding)
    except LoginFailed as error:
        raise Refused(refused_here(f"{host}: {error}", "4.7.0", Phase.AUTH, host)) from error
    waiting = login.first
    line = shown = f"AUTH {name}"
    if waiting is not None and len(line) + len(initial := encode(waiting) or "=") + 3 <= AUTH_LINE_LIMIT:
        line, shown, waiting = f"{line} {initial}", f"{line} {MASK}", None
    reply = yield from ask(line, Phase.AUTH, seconds, shown)
    for _ in range(CHALLENGES_LIMIT):
        if reply.code != 334:
            break
        try:
            challenge = decode(reply.lines[0].strip().encode("ascii"))
            if waiting is not None:  # it did not fit into the command, and the challenge is empty
                response, waiting = waiting, None
            else:
                response = login.answer(challenge)
        except (LoginFailed, MalformedResponse) as error:
            yield from ask("*", Phase.AUTH, seconds)
            raise Refused(refused_here(f"{host}: the login failed: {error}", "4.7.0", Phase.AUTH, host)) from error
        reply = yield from ask(encode(response), Phase.AUTH, seconds, MASK)
    if reply.code == 334:
        raise Refused(by_protocol(f"{host}: the challenges of AUTH do not end", Phase.AUTH, host), orderly=False)
    if reply.code == 235 and not login.finished:
        text = f"{host}: the server took the login without having proved that it knows the password"
        raise Refused(by_protocol(text, Phase.AUTH, host), orderly=False)
    return reply
