"""Mail from the service itself to its postmaster: with the null sender, by the way that all mail takes.

The message goes through `mailsvc.smtp.intake`, so it is a message like any other: stored in one transaction, with its
events, given to a program when that is where the postmaster's mail goes, and never held to a quota.  It is marked as
made by a machine (RFC 3834), so that nobody's vacation program answers it.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from email.utils import format_datetime

from twisted.internet.defer import Deferred

from mailsvc.gate.bodies import Bodies
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.smtp.intake import Intake, NotTaken
from mailsvc.smtp.reception import BodyLimits
from mailsvc.smtp.seams import Client, Directory

_LIMITS = BodyLimits(
    message_size=1 << 20,
    header_size=1 << 16,
    received_fields=100,
    refuse_long_lines=False,
    in_memory=1 << 20,
    folder=None,
)


class ToPostmaster:
    """Mails of the service called ``hostname`` to the address that its postmaster has there."""

    def __init__(self, intake: Intake, directory: Directory, hostname: str) -> None:
        self._intake = intake
        self._directory = directory
        self._hostname = hostname
        self._address = Address("postmaster", hostname)

    def tell(self, subject: str, text: str) -> Deferred[bool]:
        """Store a mail with this subject and these lines; False when nobody gets the postmaster's mail.

        ``subject`` is printable ASCII.  Fails with `mailsvc.errors.TemporaryFailure`.
        """
        return Deferred.fromCoroutine(self._tell(subject, text))

    async def _tell(self, subject: str, text: str) -> bool:
        client = Client(secrets.randbits(53), "mailsvc", "local")
        where = await self._directory.resolve(self._address, client)
        if where.refusal is not None:
            return False
        reception = self._intake.reception(_LIMITS, Bodies())
        try:
            reception.take(self._message(subject, text))
            if reception.verdict() is not None:
                return False
            envelope = Envelope(None, (self._address,), Origin("local", self._hostname, "ESMTP", None, None), True)
            await self._intake.accept(envelope, {self._address: where}, reception)
        except NotTaken:
            return False
        finally:
            reception.discard()
        return True

    def _message(self, subject: str, text: str) -> bytes:
        now = datetime.fromtimestamp(self._intake.now, UTC)
        header = (
            f"Date: {format_datetime(now)}\r\n"
            f"From: Mail service <postmaster@{self._hostname}>\r\n"
            f"To: <{self._address}>\r\n"
            f"Subject: {subject} ({self._hostname})\r\n"
            f"Message-ID: <{secrets.token_hex(10)}@{self._hostname}>\r\n"
            "Auto-Submitted: auto-generated\r\n"
            "MIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            "Content-Transfer-Encoding: 8bit\r\n"
            "\r\n"
        )
        lines = [line[at : at + 900] for line in text.split("\n") for at in range(0, max(1, len(line)), 900)]
        return header.encode() + "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")
