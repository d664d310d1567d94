"""Giving one message to a session: what it may be given, MAIL, RCPT and the content (RFC 5321 section 3.3).

Sans-I/O (`mailsvc.relay.dialogue`).  Beside RFC 5321: LMTP (RFC 2033), PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME
(RFC 6152), SMTPUTF8 (RFC 6531), CHUNKING (RFC 3030), DSN (RFC 3461), REQUIRETLS (RFC 8689), LIMITS (RFC 9422).

The hardest idea: a recipient's fate is decided by the reply about it, and by nothing else.  With PIPELINING the replies
are counted off against what was sent.  What ends the session in the middle (`_Over`) decides only those who have no
reply yet; and once the end of the content may have left, "no reply" is not "not delivered", but "nobody knows"
(`Outcome.duplicate_possible`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mailsvc.mail.address import Address
from mailsvc.mail.wishes import encode_original, encode_xtext
from mailsvc.relay.dialogue import (
    Broken,
    Early,
    Hear,
    Line,
    LookThrough,
    Octets,
    OpenContent,
    Piece,
    Remark,
    Say,
    Session,
    Steps,
)
from mailsvc.relay.eightbit import Survey
from mailsvc.relay.framing import Dotted, Straight, Unsendable
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_protocol, by_reply, refused_here
from mailsvc.relay.outgoing import Outgoing
from mailsvc.relay.replies import PeerReply
from mailsvc.tls.levels import Level

GROUP_LIMIT = 100
"""Commands that are sent at once: their replies must fit into the reader's buffer."""

CHUNKS_AHEAD = 8
"""BDAT commands that may be without a reply (RFC 3030 section 4.2 allows to pipeline them)."""

TRANSACTIONS_LIMIT = 100
"""Transactions of one message: a server that takes a recipient at a time must not hold us for ever."""


@dataclass(slots=True)
class Progress:
    """What a session has been through.

    ``transactions``: how many were begun.  ``dirty``: the last one was not completed, so that RSET comes first.
    ``usable``: it can take another message.
    """

    transactions: int = 0
    dirty: bool = False
    usable: bool = True


class _Over(Exception):
    """The session is over; ``outcome`` is that of every recipient who has none."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


def delivery(session: Session, outgoing: Outgoing, progress: Progress) -> Steps[dict[Address, Outcome]]:
    """The outcome of each recipient.  Raises nothing that can be foreseen; ``progress`` is kept up to date."""
    host = session.terms.host
    outcomes: dict[Address, Outcome] = {}
    waiting = list(outgoing.recipients)
    before = progress.transactions
    try:
        form = yield from _form(session, outgoing)
        outcomes.update(form.refused)
        waiting = [each for each in waiting if each not in form.refused]
        while waiting:
            if (most := session.limit("MAILMAX")) is not None and progress.transactions >= most:
                raise _Over(refused_here(f"{host} takes no more mail in this session", "4.4.5", Phase.MAIL, host))
            if progress.transactions - before >= TRANSACTIONS_LIMIT:
                raise _Over(refused_here(f"{host} takes too few recipients at a time", "4.5.3", Phase.RCPT, host))
            now = _fitting(session, waiting)
            made: dict[Address, Outcome] = {}
            try:
                yield from _Transaction(session, form, now, made, progress).run()
            finally:
                outcomes.update(made)
            waiting = _again(made, now) + waiting[len(now) :]
    except _Over as over:
        progress.usable = False
        for each in waiting:
            outcomes.setdefault(each, over.outcome)
    if (most := session.limit("MAILMAX")) is not None and progress.transactions >= most:
        progress.usable = False
    facts = session.level, session.terms.demanded, session.tls
    # Most recipients of a message share an outcome, and go on sharing it.
    on_channel: dict[int, Outcome] = {}
    for outcome in outcomes.values():
        if id(outcome) not in on_channel:
            on_channel[id(outcome)] = outcome.on(host, *facts)
    return {each: on_channel[id(outcomes[each])] for each in outgoing.recipients}


def _fitting(session: Session, waiting: Sequence[Address]) -> list[Address]:
    """The first of the recipients, as many as one transaction may have (RFC 9422 sections 4.2 and 4.3)."""
    now = list(waiting[: session.limit("RCPTMAX")])
    domains = session.limit("RCPTDOMAINMAX")
    seen: set[str] = set()
    for place, each in enumerate(now):
        seen.add(each.domain)
        if domains is not None and len(seen) > domains:
            return now[:place]
    return now


def _again(made: Mapping[Address, Outcome], now: Sequence[Address]) -> list[Address]:
    """Who was one too many (RFC 5321 section 4.5.3.1.10): when others have gone through, asking again has a meaning."""
    if not any(each.kind is Kind.DELIVERED for each in made.values()):
        return []
    return [each for each in now if made[each].phase is Phase.RCPT and made[each].code in (452, 552)]


# -- what this server may be given ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """How a message is given to a server: the MAIL command, who cannot be reached by it, how to convert, if at all."""

    outgoing: Outgoing
    mail: str
    refused: Mapping[Address, Outcome]
    survey: Survey | None = None


def _form(session: Session, outgoing: Outgoing) -> Steps[_Form]:
    host, keywords = session.terms.host, session.keywords
    sender, everybody = outgoing.reverse_path, outgoing.recipients
    utf8 = outgoing.smtputf8 or not all(each.is_ascii for each in (*everybody, *((sender,) if sender else ())))
    # RFC 6531 section 3.1: who takes SMTPUTF8 takes 8BITMIME.
    takes_utf8, takes_8bit = "SMTPUTF8" in keywords, bool({"8BITMIME", "SMTPUTF8"} & set(keywords))
    survey: Survey | None = None
    if not takes_8bit or (utf8 and not takes_utf8):
        try:
            survey = yield LookThrough()
        except Unsendable as error:
            refusal = refused_here(str(error), error.enhanced, Phase.CONTENT, host)
            return _Form(outgoing, "", dict.fromkeys(everybody, refusal))
    why, enhanced = _obstacle(session, outgoing, survey, utf8=utf8, takes_8bit=takes_8bit)
    if why:
        refusal = refused_here(f"{host}: {why}", enhanced, host=host)
        return _Form(outgoing, "", dict.fromkeys(everybody, refusal))
    refused: dict[Address, Outcome] = {}
    if not takes_utf8:
        text = f"{host}: the server does not take addresses with characters beyond ASCII (SMTPUTF8)"
        refusal = refused_here(text, "5.6.7", host=host)
        refused = {each: refusal for each in everybody if not each.is_ascii}
    convert = survey is not None and not takes_8bit and survey.converts
    words = [f"MAIL FROM:<{'' if sender is None else sender}>"]
    if "SIZE" in keywords and not convert:
        words.append(f"SIZE={outgoing.size}")
    if takes_8bit and (outgoing.body_8bit or (survey is not None and survey.eight_bit)):
        words.append("BODY=8BITMIME")
    if utf8 and takes_utf8:
        words.append("SMTPUTF8")
    if outgoing.require_tls and "REQUIRETLS" in keywords:
        words.append("REQUIRETLS")
    if "DSN" in keywords:
        words += [f"RET={outgoing.dsn_return}"] if outgoing.dsn_return is not None else []
        words += [f"ENVID={encode_xtext(outgoing.envelope_id)}"] if outgoing.envelope_id is not None else []
    return _Form(outgoing, " ".join(words), refused, survey if convert else None)


def _obstacle(
    session: Session, outgoing: Outgoing, survey: Survey | None, *, utf8: bool, takes_8bit: bool
) -> tuple[str, str]:
    """Why this server cannot have the message at all, and the status code; "" when it can."""
    keywords, sender = session.keywords, outgoing.reverse_path
    if outgoing.require_tls and not session.terms.local:
        # RFC 8689 section 4.2.1: the channel, and the server's promise to go on in the same way.
        if session.level < Level.NAME:
            return f"the sender demands REQUIRETLS, and the channel is {session.level.text}", "4.7.10"
        if "REQUIRETLS" not in keywords:
            return "the sender demands REQUIRETLS, which the server does not offer", "5.7.30"
    if 0 < session.size_limit < outgoing.size:
        return f"the message has {outgoing.size} octets, and the server takes {session.size_limit}", "5.3.4"
    if utf8 and "SMTPUTF8" not in keywords:
        if sender is not None and not sender.is_ascii:
            return "the server does not take a sender with characters beyond ASCII (SMTPUTF8)", "5.6.7"
        if survey is not None and survey.header_8bit:
            return "the header has characters beyond ASCII, and the server does not take SMTPUTF8", "5.6.9"
    if survey is not None and survey.eight_bit and not takes_8bit:
        if survey.header_8bit:
            return "the header has characters beyond ASCII, and the server takes seven bits only", "5.6.9"
        if survey.obstacle:
            return f"the server takes seven bits only, and {survey.obstacle}", "5.6.3"
    return "", ""


def _rcpt(session: Session, outgoing: Outgoing, recipient: Address) -> str:
    words = [f"RCPT TO:<{recipient}>"]
    if "DSN" in session.keywords:
        wish = outgoing.wish(recipient)
        words += [f"NOTIFY={','.join(wish.notify)}"] if wish.notify is not None else []
        words += [f"ORCPT={encode_original(wish.original)}"] if wish.original is not None else []
    return " ".join(words)


# -- one transaction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Command:
    phase: Phase
    seconds: float
    text: str
    recipient: Address | None = None


class _Transaction:
    """MAIL to the end of the content.  ``made`` gets an outcome for each of ``now``, unless `_Over` is raised."""

    def __init__(
        self, session: Session, form: _Form, now: Sequence[Address], made: dict[Address, Outcome], progress: Progress
    ) -> None:
        self._session = session
        self._host = session.terms.host
        self._timeouts = session.terms.timeouts
        self._form = form
        self._now = now
        self._made = made
        self._progress = progress
        self._accepted: list[Address] = []
        self._data: PeerReply | None = None
        self._phase = Phase.MAIL
        self._pipelining = "PIPELINING" in session.keywords
        self._chunking = "CHUNKING" in session.keywords

    def run(self) -> Steps[None]:
        commands = self._commands()
        self._progress.transactions += 1
        self._progress.dirty = True
        try:
            yield from self._envelope(commands)
            if self._chunking and self._accepted:
                yield from self._chunks()
            elif self._data is not None:
                yield from self._after_data(self._data)
        except Broken as broken:
            raise _Over(broken.outcome(self._phase, self._host)) from broken
        except Early as early:
            self._phase = Phase.CONTENT
            # It may be what ended the session from the server's side; a "yes" to what it has not seen is none.
            raise _Over(self._by_reply(early.reply, Phase.CONTENT) or self._meaningless(early.reply)) from early
        except Unsendable as error:
            # Half of a message is on its way: only the end of the connection takes it back.
            raise _Over(refused_here(str(error), error.enhanced, Phase.CONTENT, self._host)) from error

    def _commands(self) -> list[_Command]:
        timeouts, outgoing = self._timeouts, self._form.outgoing
        commands = [_Command(Phase.RESET, timeouts.reset, "RSET")] if self._progress.dirty else []
        commands.append(_Command(Phase.MAIL, timeouts.mail, self._form.mail))
        for each in self._now:
            commands.append(_Command(Phase.RCPT, timeouts.rcpt, _rcpt(self._session, outgoing, each), each))
        if not self._chunking:
            commands.append(_Command(Phase.DATA, timeouts.data, "DATA"))
        return commands

    def _envelope(self, commands: Sequence[_Command]) -> Steps[None]:
        rest = iter(commands)
        while group := tuple(islice(rest, GROUP_LIMIT if self._pipelining else 1)):
            if self._refused or (group[0].phase is Phase.DATA and not self._accepted):
                return
            yield Say(tuple(Line(each.text) for each in group))
            for command in group:
                self._phase = command.phase
                reply: PeerReply = yield Hear(command.phase, command.seconds)
                self._take(command, reply)

    @property
    def _refused(self) -> bool:
        return len(self._made) == len(self._now)

    def _take(self, command: _Command, reply: PeerReply) -> None:
        """Note the reply to a command before the content.  Raises `_Over`."""
        if reply.code == 421:
            raise _Over(by_reply(reply, command.phase, self._host))
        if command.phase is Phase.DATA:
            self._data = reply
            return
        outcome = self._by_reply(reply, command.phase)
        if outcome is None and not 200 <= reply.code < 300:
            raise _Over(self._meaningless(reply))
        match command.phase:
            case Phase.RESET if outcome is not None:
                raise _Over(outcome)
            case Phase.MAIL if outcome is not None:
                self._made.update(dict.fromkeys(self._now, outcome))
            case Phase.RCPT if command.recipient is not None and command.recipient not in self._made:
                if outcome is None:
                    self._accepted.append(command.recipient)
                else:
                    self._made[command.recipient] = outcome

    def _by_reply(self, reply: PeerReply, phase: Phase) -> Outcome | None:
        return by_reply(reply, phase, self._host) if reply.code >= 400 else None

    def _meaningless(self, reply: PeerReply) -> Outcome:
        text = f"{self._host} answered {self._phase.value} with {reply}, which has no meaning there"
        return by_protocol(text, self._phase, self._host)

    # -- the content

    def _after_data(self, data: PeerReply) -> Steps[None]:
        outcome = self._by_reply(data, Phase.DATA)
        if outcome is not None:
            self._made.update(dict.fromkeys(self._accepted, outcome))
            return
        if data.code != 354:
            raise _Over(self._meaningless(data))
        if not self._accepted:
            # RFC 2920 section 3.1: all recipients were refused, and the server waits for a message all the same.
            yield Octets(b".\r\n", last=True)
            yield Hear(Phase.END, self._timeouts.end)
            return
        self._phase = Phase.CONTENT
        yield OpenContent(self._form.survey)
        framing, sent, last = Dotted(), 0, False
        while not last:
            piece, last = yield Piece()
            octets = framing.feed(piece)
            if last:
                octets += framing.end()
                yield Octets(b"", quiet=True)  # is all well?  From here on nobody knows what the server has
                self._phase = Phase.END
            sent += len(octets)
            yield Octets(octets, quiet=True, last=last)
        yield Remark(f"the content, {sent} octets")
        yield from self._end()

    def _chunks(self) -> Steps[None]:
        """BDAT (RFC 3030): the content with its length, so that nothing in it can be taken for its end."""
        self._phase = Phase.CONTENT
        yield OpenContent(self._form.survey)
        framing, outstanding, sent, last = Straight(), 0, 0, False
        while not last:
            piece, last = yield Piece()
            octets = framing.feed(piece)
            if last:
                octets += framing.end()
                self._phase = Phase.END
            elif not octets:
                continue
            sent += len(octets)
            yield Octets(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets, last=last)
            outstanding += not last
            while outstanding > (CHUNKS_AHEAD if self._pipelining else 0):
                yield from self._chunk_reply()
                outstanding -= 1
        yield Remark(f"BDAT, {sent} octets in all")
        for _ in range(outstanding):
            yield from self._chunk_reply()
        yield from self._end()

    def _chunk_reply(self) -> Steps[None]:
        reply: PeerReply = yield Hear(Phase.CONTENT, self._timeouts.block)
        if reply.code != 250:
            raise _Over(self._by_reply(reply, Phase.CONTENT) or self._meaningless(reply))

    def _end(self) -> Steps[None]:
        """The reply to the whole message; in LMTP one for each recipient (RFC 2033 section 4.2)."""
        each_its_own = self._session.terms.lmtp
        for recipients in [[each] for each in self._accepted] if each_its_own else [self._accepted]:
            reply: PeerReply = yield Hear(Phase.END, self._timeouts.end)
            if 300 <= reply.code < 400:
                raise _Over(self._meaningless(reply))
            outcome = by_reply(reply, Phase.END, self._host)
            self._made.update(dict.fromkeys(recipients, self._reporting(outcome)))
            if reply.code == 421:
                raise _Over(outcome)
        self._progress.dirty = False

    def _reporting(self, outcome: Outcome) -> Outcome:
        if outcome.kind is not Kind.DELIVERED or "DSN" not in self._session.keywords:
            return outcome
        return replace(outcome, dsn=True)
