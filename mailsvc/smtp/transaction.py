"""One mail transaction: what MAIL, RCPT and the body have brought so far, and its end (RFC 5321 section 3.3).

A `Transaction` lives from MAIL to the reply at the message's end, to RSET, or to the end of the connection; whatever
ends it, `Transaction.discard` gives its memory and disk back.  `Finisher` judges and stores a complete one.

The hardest idea: once the body has ended, the transaction belongs to the handler that stores it, not to the session
any more; so a client that goes away meanwhile takes nothing with it (promise B).

A submission may be held back until the first attempt of what goes out has ended (``hold_reply``): the hardest part of
that is the client who goes away meanwhile, because then a report must tell what the reply would have told.

LMTP wants an answer for each recipient (RFC 2033 section 4.2), SMTP one for all: there, a message that one recipient
cannot have is refused to all, because nobody could say "all but one".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import CancelledError

from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.reply import Reply, reply
from mailsvc.mail.wishes import NO_WISH, Wish
from mailsvc.relay.outcome import Outcome
from mailsvc.smtp.commands import Mail
from mailsvc.smtp.intake import Intake, NotTaken
from mailsvc.smtp.reception import Reception
from mailsvc.smtp.reporting import MailLoop
from mailsvc.smtp.seams import Client, Destination, FirstOutcomes, Journal, Senders

_ABOUT_A_MESSAGE = (550, 551, 552, 553, 554)
_MOST_LINES = 20
_TROUBLE = reply(451, "4.3.0", "Local trouble; try again later")
_LOOP = reply(554, "5.4.6", "Mail loop: the message has been delivered to its recipient before")


@dataclass(slots=True)
class Transaction:
    """``recipients``: those that were accepted, in the order of RCPT; ``named``: each accepted RCPT, also a second one.

    ``reception``: the body, once it has begun.  ``release_at``: see `mailsvc.mail.envelope.Envelope`.  ``is_gone``: the
    client is; ``waits_for``: what its reply is held back for.
    """

    mail: Mail
    release_at: float | None = None
    recipients: dict[Address, Destination] = field(default_factory=dict)
    wishes: dict[Address, Wish] = field(default_factory=dict)
    named: list[Address] = field(default_factory=list)
    reception: Reception | None = None
    is_gone: bool = False
    waits_for: FirstOutcomes | None = None

    def add(self, address: Address, destination: Destination, wish: Wish) -> None:
        """RCPT was accepted."""
        self.recipients[address] = destination
        self.named.append(address)
        if wish != NO_WISH:
            self.wishes[address] = wish

    def envelope(self, origin: Origin) -> Envelope:
        """The envelope as far as it is known."""
        mail = self.mail
        return Envelope(
            mail.reverse_path,
            tuple(self.recipients),
            origin,
            body_8bit=mail.body_8bit,
            smtputf8=mail.smtputf8,
            require_tls=mail.require_tls,
            dsn_return=mail.dsn_return,
            envelope_id=mail.envelope_id,
            release_at=self.release_at,
            wishes=dict(self.wishes),
        )

    def client_gone(self) -> None:
        """No reply will be read."""
        self.is_gone = True
        if self.waits_for is not None:
            self.waits_for.cancel()

    async def refusals(self, first: FirstOutcomes) -> Sequence[tuple[str, Outcome]] | None:
        """What ``first`` says, as long as there is somebody to say it to."""
        self.waits_for = first
        try:
            return await first
        except CancelledError:
            # Too late for a report: the client, who has no reply, has the message still and sends it again.
            return None
        finally:
            self.waits_for = None

    def discard(self) -> None:
        """It is over, or was never finished."""
        if self.reception is not None:
            self.reception.discard()


@dataclass(frozen=True, slots=True)
class _Message:
    """A complete message."""

    envelope: Envelope
    reception: Reception
    client: Client
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Finisher:
    """Judges and stores complete messages.

    ``hold_reply``: for how many seconds at most the reply waits for the first attempt of what goes out.
    """

    intake: Intake
    senders: Senders
    journal: Journal
    hold_reply: float = 0.0

    async def outcome(
        self, transaction: Transaction, client: Client, origin: Origin
    ) -> Mapping[Address, Reply] | Reply:
        """Store the message of a transaction whose body has ended; the reply, in LMTP by recipient, tells the rest."""
        reception = transaction.reception
        assert reception is not None
        envelope = transaction.envelope(origin)
        try:
            refused = await self._refusal(reception, client)
            if refused is not None:
                self.journal.message_refused(client, envelope, reception.scanner.size, refused)
                return refused
            message = _Message(envelope, reception, client, transaction)
            if client.listener == "lmtp":
                return await self._each(message, transaction.recipients)
            return await self._all(message, transaction.recipients)
        finally:
            transaction.discard()

    async def _refusal(self, reception: Reception, client: Client) -> Reply | None:
        refused = reception.verdict()
        if refused is not None or not client.is_ours:
            return refused
        try:
            return await self.senders.at_end(client, reception.header())
        except TemporaryFailure as error:
            self.journal.unavailable(client, "checking the sender", error)
            return _TROUBLE

    async def _all(self, message: _Message, destinations: Mapping[Address, Destination]) -> Reply:
        try:
            return await self._accept(message, destinations)
        except MailLoop:
            self._refused(message, _LOOP)
            return _LOOP
        except NotTaken as error:
            self._refused(message, error.reply)
            return error.reply

    async def _each(self, message: _Message, destinations: Mapping[Address, Destination]) -> Mapping[Address, Reply]:
        """Together as far as possible; what one recipient cannot have, the others still get."""
        # A program would run again if the message were tried again: it has its recipient for itself.
        together = {address: leads for address, leads in destinations.items() if not leads.programs}
        outcome: dict[Address, Reply] = {}
        if len(together) > 1:
            try:
                outcome = dict.fromkeys(together, await self._accept(_for(message, together), together))
            except (MailLoop, NotTaken):
                # Nothing was stored; one by one it will show who is the cause.
                outcome = {}
        reached = {account: outcome[each] for each in outcome for account in destinations[each].accounts}
        for address, leads in destinations.items():
            if address in outcome:
                continue
            left = tuple(account for account in leads.accounts if account not in reached)
            if left or leads.programs or leads.remotes:
                alone = {address: replace(leads, accounts=left)}
                outcome[address] = await self._all(_for(message, alone), alone)
            else:
                # Two recipients may be one maildrop: it has the message already.
                outcome[address] = reached[leads.accounts[0]]
            if not outcome[address].is_error:
                reached |= dict.fromkeys(left, outcome[address])
        return outcome

    async def _accept(self, message: _Message, destinations: Mapping[Address, Destination]) -> Reply:
        envelope, client, transaction = message.envelope, message.client, message.transaction
        try:
            stored = await self.intake.store(
                envelope, destinations, message.reception, lambda: 0.0 if transaction.is_gone else self.hold_reply
            )
        except (MailLoop, NotTaken):
            raise
        except MailsvcError as error:
            # Also an account that was removed since RCPT: when the client tries again, RCPT will tell.
            self.journal.unavailable(client, "storing a message", error)
            return _TROUBLE
        self.journal.accepted(client, envelope, stored.trace_id, message.reception.scanner.size)
        refusals = None if stored.first is None else await transaction.refusals(stored.first)
        if refusals:
            answer = _refused_elsewhere(refusals)
            self._refused(message, answer)
            return answer
        return reply(250, "2.0.0", f"Ok: stored as {stored.trace_id}")

    def _refused(self, message: _Message, answer: Reply) -> None:
        self.journal.message_refused(message.client, message.envelope, message.reception.scanner.size, answer)


def _refused_elsewhere(refusals: Sequence[tuple[str, Outcome]]) -> Reply:
    """The reply to a message that nobody elsewhere wants; in the words, and with the code, of the first who said so."""
    _, first = refusals[0]
    # Others would say something about our session (530, 521), not about the message.
    code = first.code if first.code in _ABOUT_A_MESSAGE else 550
    enhanced = first.enhanced if first.enhanced.startswith("5.") else "5.0.0"
    lines = [f"<{recipient}> {outcome.text}" for recipient, outcome in refusals[:_MOST_LINES]]
    if len(refusals) > _MOST_LINES:
        lines.append(f"and {len(refusals) - _MOST_LINES} more recipients")
    return reply(code, enhanced, *lines)


def _for(message: _Message, destinations: Mapping[Address, Destination]) -> _Message:
    """The message with some of its recipients."""
    envelope = message.envelope
    wishes = {address: wish for address, wish in envelope.wishes.items() if address in destinations}
    return replace(message, envelope=replace(envelope, recipients=tuple(destinations), wishes=wishes))
