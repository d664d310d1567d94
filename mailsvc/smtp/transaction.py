"""One mail transaction: what MAIL, RCPT and the body have brought so far, and its end (RFC 5321 section 3.3).

A `Transaction` lives from MAIL to the reply at the message's end, to RSET, or to the end of the connection; whatever
ends it, `Transaction.discard` gives its memory and disk back.  `Finisher` judges and stores a complete one.

The hardest idea: once the body has ended, the transaction belongs to the handler that stores it, not to the session
any more; so a client that goes away meanwhile takes nothing with it (promise B).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.commands import Mail
from mailsvc.smtp.intake import Intake, NotTaken, Reception
from mailsvc.smtp.seams import Client, Destination, Journal, Senders

_TROUBLE = reply(451, "4.3.0", "Local trouble; try again later")


@dataclass(slots=True)
class Transaction:
    """``recipients``: those that were accepted, in the order of RCPT.  ``reception``: the body, once it has begun."""

    mail: Mail
    recipients: dict[Address, Destination] = field(default_factory=dict)
    reception: Reception | None = None

    def envelope(self, origin: Origin) -> Envelope:
        """The envelope as far as it is known."""
        return Envelope(self.mail.reverse_path, tuple(self.recipients), origin, self.mail.body_8bit)

    def discard(self) -> None:
        """It is over, or was never finished."""
        if self.reception is not None:
            self.reception.discard()


@dataclass(frozen=True, slots=True)
class Finisher:
    """Judges and stores complete messages."""

    intake: Intake
    senders: Senders
    journal: Journal

    async def outcome(self, transaction: Transaction, client: Client, origin: Origin) -> Reply:
        """Store the message of a transaction whose body has ended; the reply says what became of it."""
        reception = transaction.reception
        assert reception is not None
        envelope = transaction.envelope(origin)
        size = reception.scanner.size
        try:
            refused = await self._refusal(reception, client)
            if refused is not None:
                self.journal.message_refused(client, envelope, size, refused)
                return refused
            trace_id = await self.intake.accept(envelope, transaction.recipients, reception)
        except NotTaken as error:
            self.journal.message_refused(client, envelope, size, error.reply)
            return error.reply
        except MailsvcError as error:
            # Also an account that was removed since RCPT: when the client tries again, RCPT will tell.
            self.journal.unavailable(client, "storing a message", error)
            return _TROUBLE
        finally:
            transaction.discard()
        self.journal.accepted(client, envelope, trace_id, size)
        return reply(250, "2.0.0", f"Ok: stored as {trace_id}")

    async def _refusal(self, reception: Reception, client: Client) -> Reply | None:
        refused = reception.verdict()
        if refused is not None or client.login is None:
            return refused
        try:
            return await self.senders.at_end(client, reception.header())
        except TemporaryFailure as error:
            self.journal.unavailable(client, "checking the sender", error)
            return _TROUBLE
