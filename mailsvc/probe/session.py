"""A probe's conversation: greet, ask what is offered, begin TLS, ask again, take leave; everything is written down.

Nothing that a server does makes `observe` raise or wait for ever: every end is an `Observation` with a sentence. What
the certificates are worth is told by `mailsvc.tls.client`; the policy there must demand no more than encryption, so
that a bad server is described and not only refused.

The hardest idea is to believe nothing that was said in clear. The answers before and inside TLS are kept apart and
compared, an answer that came too early ends the session (`mailsvc.relay.channel`), and a server that says PREAUTH in
clear, after which IMAP knows no STARTTLS (RFC 9051 section 7.1.4), is not followed into plain text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from mailsvc.errors import MailsvcError
from mailsvc.mail.channel import safe_text
from mailsvc.probe.observation import (
    DIALOGUE_LIMIT,
    Observation,
    Outcome,
    Spoken,
    Stop,
    Talk,
    Target,
    changes,
    cut,
    spoken,
)
from mailsvc.relay.channel import Channel, HandshakeFailed, NotUnderstood, SpokeTooEarly, TooSlow, connect
from mailsvc.relay.replies import PeerReply
from mailsvc.tls.client import Destination, server_staple
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.verify import HandshakeRefused

_MOST_CAS = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take, in seconds."""

    connect: float = 20.0
    greeting: float = 20.0
    command: float = 20.0
    handshake: float = 20.0
    closing: float = 3.0


class _Stopped(Exception):
    """There is no use in going on."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        self.stop = Stop(outcome, text)


async def observe(
    target: Target,
    endpoint: IStreamClientEndpoint,
    destination: Destination,
    clock: IReactorTime,
    limits: Limits = Limits(),
) -> Observation:
    """Talk with the server at ``endpoint``; never raises for anything that it does."""
    session = _Session(target, destination, clock, limits)
    stop: Stop | None = None
    try:
        await session.go(endpoint)
    except _Stopped as stopped:
        stop = stopped.stop
    except MailsvcError as error:
        stop = Stop(_outcome(error), session.explained(error))
    session.channel.abort()
    return session.observation(stop)


def _outcome(error: MailsvcError) -> Outcome:
    if isinstance(error, (HandshakeFailed, HandshakeRefused)):
        return Outcome.HANDSHAKE
    if isinstance(error, (SpokeTooEarly, NotUnderstood)):
        return Outcome.BROKEN
    return Outcome.UNREACHED


class _Session:
    """One conversation; what is seen is kept in it as it comes."""

    def __init__(self, target: Target, destination: Destination, clock: IReactorTime, limits: Limits) -> None:
        self.channel = Channel(target.talk.dialect, clock)
        self._target = target
        self._destination = destination
        self._clock = clock
        self._limits = limits
        self._peer = ""
        self._dialogue: list[Spoken] = []
        self._in_clear: tuple[str, ...] | None = None
        self._inside: tuple[str, ...] | None = None
        self._identity: ServerIdentity | None = None
        self._staple = b""
        self._wants: tuple[str, ...] = ()
        self._remarks: list[str] = []
        self._heard = False
        self._tag = 0

    def observation(self, stop: Stop | None) -> Observation:
        """All of it."""
        return Observation(
            self._target,
            self._peer,
            tuple(self._dialogue),
            self._in_clear,
            self._inside,
            self._identity,
            self._staple,
            self._wants,
            tuple(self._remarks),
            stop,
        )

    def explained(self, error: MailsvcError) -> str:
        """The sentence of a failure, with what may help."""
        text, target = str(error), self._target
        if target.at_once and isinstance(error, HandshakeFailed) and "not TLS" in text:
            return f"{text}; if TLS begins with STARTTLS there, say --starttls smtp, lmtp, pop3 or imap"
        strange = isinstance(error, TooSlow) or (isinstance(error, NotUnderstood) and " is no " in text)
        if not target.at_once and not self._heard and strange:
            return f"{text}; if TLS begins with the first octet there, or another protocol is spoken, say which"
        return text

    async def go(self, endpoint: IStreamClientEndpoint) -> None:
        await connect(endpoint, self.channel, self._limits.connect, self._clock)
        self._peer = self.channel.peer
        if self._target.at_once:
            await self._handshake()
        if self._target.talk is not Talk.NOTHING:
            await _TALKS[self._target.talk](self)
        self._note("the connection is closed")
        await self.channel.close(self._limits.closing)

    # -- what is said --------------------------------------------------------------------------------------------

    async def smtp(self) -> None:
        """SMTP and LMTP."""
        await self._greeting()
        offered = await self._hello()
        if not self._target.at_once:
            self._in_clear = offered
            self._must_offer(offered, "STARTTLS")
            await self._begin_tls(await self._ask("STARTTLS"))
            offered = await self._hello()
        self._inside = offered
        self._compare()
        if self._target.sender:
            taken = await self._ask(f"MAIL FROM:<{self._target.sender}>")
            if not taken.is_positive:
                self._remarks.append(cut(f"it does not take mail from {self._target.sender}: {taken}"))
            else:
                await self._ask("RSET")
        await self._leave("QUIT")

    async def pop3(self) -> None:
        """POP3; nothing but what is said before a login."""
        await self._greeting()
        offered = await self._capa()
        if not self._target.at_once:
            self._in_clear = offered
            if offered is not None:
                self._must_offer(offered, "STLS")
            await self._begin_tls(await self._ask("STLS"))
            offered = await self._capa()
        self._inside = offered
        self._compare()
        await self._leave("QUIT")

    async def imap(self) -> None:
        """IMAP; nothing but what is said before a login."""
        greeting = await self._greeting(needs_success=False)
        word = greeting.lines[-1].split(" ")[1].upper()
        if word == "PREAUTH" and not self._target.at_once:
            text = (
                "the server says PREAUTH in clear, as if we had logged in: after that IMAP knows no STARTTLS, so this"
                " is how somebody on the way would keep us in plain text; nothing more was said"
            )
            raise _Stopped(Outcome.BROKEN, text)
        if word == "BYE":
            raise _Stopped(Outcome.UNREACHED, cut(f"the server does not serve us: {greeting.text}"))
        if word == "PREAUTH":
            self._remarks.append("it says PREAUTH: whoever connects is logged in already")
        offered = await self._capability()
        if not self._target.at_once:
            self._in_clear = offered
            self._must_offer(offered, "STARTTLS")
            await self._begin_tls(await self._ask("STARTTLS"))
            offered = await self._capability()
        self._inside = offered
        self._compare()
        await self._leave("LOGOUT")

    async def _greeting(self, *, needs_success: bool = True) -> PeerReply:
        greeting = await self._answer(self._limits.greeting, "the greeting")
        self._heard = True
        if needs_success and not 200 <= greeting.code < 300:
            raise _Stopped(Outcome.UNREACHED, cut(f"the server does not serve us: {greeting}"))
        return greeting

    async def _hello(self) -> tuple[str, ...]:
        verb = "LHLO" if self._target.talk is Talk.LMTP else "EHLO"
        answer = await self._ask(f"{verb} {self._target.helo}")
        if answer.is_positive:
            return answer.lines[1:]
        if self._identity is None:
            raise _Stopped(Outcome.NO_TLS, cut(f"the server does not know {verb}, and so no TLS: {answer}"))
        self._remarks.append(cut(f"inside TLS it refuses {verb}: {answer}"))
        return ()

    async def _capa(self) -> tuple[str, ...] | None:
        """None when the server does not say what it offers: old ones know STLS and not CAPA."""
        if not (await self._ask("CAPA")).is_positive:
            return None
        lines = await self.channel.lines(self._limits.command, "its answer to CAPA")
        for line in (*lines, "."):
            self._keep(Spoken("S", cut(line)))
        return lines

    async def _capability(self) -> tuple[str, ...]:
        answer = await self._ask("CAPABILITY")
        listed = [line for line in answer.lines if line.upper().startswith("* CAPABILITY ")]
        return tuple(" ".join(listed).split()[2:]) if listed else ()

    def _must_offer(self, offered: tuple[str, ...], word: str) -> None:
        if word in {line.partition(" ")[0].upper() for line in offered}:
            return
        text = f"the server does not offer {word}, or somebody on the way has taken it out of its answer"
        raise _Stopped(Outcome.NO_TLS, text)

    async def _begin_tls(self, answer: PeerReply) -> None:
        if 200 <= answer.code < 300:
            await self._handshake()
            return
        how = "puts TLS off" if answer.is_temporary else "refuses TLS, which it offers"
        raise _Stopped(Outcome.NO_TLS, cut(f"the server {how}: {answer}"))

    async def _handshake(self) -> None:
        try:
            identity = await self.channel.start_tls(self._destination, self._limits.handshake)
        except HandshakeFailed:
            self._note("TLS handshake: it failed")
            raise
        self._identity = identity
        group = f", {identity.group}" if identity.group else ""
        self._note(f"TLS handshake: {identity.version}, {identity.cipher}{group}")
        self._staple = server_staple(self.channel.transport)
        self._wants = _wanted(self.channel.connection)

    async def _leave(self, command: str) -> None:
        # The server may close at once, and then it is too late.
        self.channel.keep_session()
        await self._ask(command)

    def _compare(self) -> None:
        if self._in_clear is not None and self._inside is not None:
            self._remarks += changes(self._in_clear, self._inside)

    # -- one command ---------------------------------------------------------------------------------------------

    async def _ask(self, command: str) -> PeerReply:
        verb = command.partition(" ")[0]
        tag = b"*"
        if self._target.talk is Talk.IMAP:
            self._tag += 1
            tag = b"a%d" % self._tag
            command = f"{tag.decode('ascii')} {command}"
        self.channel.say(command)
        self._keep(Spoken("C", command))
        return await self._answer(self._limits.command, f"its answer to {verb}", tag)

    async def _answer(self, seconds: float, what: str, tag: bytes = b"*") -> PeerReply:
        answer = await self.channel.reply(seconds, what, tag)
        for line in spoken(self._target.talk, answer):
            self._keep(line)
        return answer

    def _note(self, text: str) -> None:
        self._keep(Spoken("-", text))

    def _keep(self, line: Spoken) -> None:
        if len(self._dialogue) < DIALOGUE_LIMIT:
            self._dialogue.append(line)


_TALKS: dict[Talk, Callable[[_Session], Awaitable[None]]] = {
    Talk.SMTP: _Session.smtp,
    Talk.LMTP: _Session.smtp,
    Talk.POP3: _Session.pop3,
    Talk.IMAP: _Session.imap,
}


def _wanted(connection: SSL.Connection | None) -> tuple[str, ...]:
    """The CAs that a server names when it asks for a client certificate."""
    names = connection.get_client_ca_list() if connection is not None else []
    return tuple(
        safe_text(
            ",".join(f"{key.decode('ascii', 'replace')}={value.decode('utf-8', 'replace')}" for key, value in parts)
        )
        for parts in (name.get_components() for name in names[:_MOST_CAS])
    )
