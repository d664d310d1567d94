"""What the SMTP server tells (`mailsvc.smtp.seams.Journal`), in the words of `mailsvc.journal`.

The server speaks in values of its own (`Client`, `Envelope`, `Reply`); the journal of the service knows connections.
Between the two lies the table of the connections that are open, by the numbers that the server has given them.
"""

from __future__ import annotations

from twisted.python.failure import Failure

from mailsvc import maillog
from mailsvc.journal import ConnectionJournal, Journal
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.reply import Reply
from mailsvc.smtp.seams import Client, LoginFailed
from mailsvc.smtp.session import VERBS


class SMTPJournal:
    """Each thing as a line of the log and as an event; see `mailsvc.smtp.seams.Journal`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[int, ConnectionJournal] = {}

    def _of(self, client: Client) -> ConnectionJournal:
        known = self._open.get(client.session)
        return known or self._journal.connection(client.listener, client.peer, client.session)

    def connected(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._open[client.session] = self._of(client)
        self._of(client).connected()

    def turned_away(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._journal.turned_away(client.listener, client.peer, why)

    def handshake_failed(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).handshake_failed(why)

    def secured(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        if client.tls is not None:
            self._of(client).secured(client.tls)

    def disconnected(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).disconnected(why)
        self._open.pop(client.session, None)

    def injection(self, client: Client, octets: int) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).injected(octets)

    def logged_in(self, client: Client, mechanism: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).logged_in(str(client.login), mechanism)

    def login_failed(self, client: Client, mechanism: str, failed: LoginFailed) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).login_failed(failed.name, mechanism, str(failed.answer), failed.why)

    def recipient_refused(self, client: Client, sender: str, address: Address, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).refused("recipient", str(answer), sender=sender, recipients=(str(address),))

    def message_refused(self, client: Client, envelope: Envelope, size: int, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        recipients = tuple(str(recipient) for recipient in envelope.recipients)
        self._of(client).refused("message", str(answer), sender=envelope.sender, recipients=recipients)

    def refused(self, client: Client, what: str, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).refused(what, why)

    def answered(self, client: Client, verb: str, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).answered(verb if verb in VERBS else "command", str(answer))

    def noted(self, client: Client, text: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.noted(client.listener, client.peer, text)
        self._of(client).noted(text)

    def accepted(self, client: Client, envelope: Envelope, trace_id: str, size: int) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        recipients = [str(recipient) for recipient in envelope.recipients]
        self._of(client).accepted(trace_id, envelope.sender, recipients, size)

    def unavailable(self, client: Client, what: str, error: Exception) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).unavailable(what, error)

    def defect(self, client: Client, error: BaseException) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        self._of(client).defect(Failure(error, type(error), error.__traceback__))
