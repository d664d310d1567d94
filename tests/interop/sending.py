"""A real service in the small internet of `tests.interop.peering`, and what becomes of the mail that its user sends."""

from __future__ import annotations

import atexit
import json
import poplib
import shutil
import smtplib
import sqlite3
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import parse_relay
from mailsvc.storage.opening import offline
from mailsvc.storage.routes import add_route
from tests.interop.peering import Peering, peering
from tests.interop.world import NETWORK, until
from tests.running import RunningService, User, new_user

_numbers = count(1)
_KINDS = {"relayed": "delivered", "put off": "deferred", "given up": "failed"}


@dataclass(frozen=True)
class Became:
    """What the first attempt for a recipient came to: ``channel`` and ``text`` are for people."""

    result: str
    host: str
    channel: str
    text: str


@cache
def sending_service() -> RunningService:
    """The one of this run."""
    here = peering()
    folder = here.world.folder / "mailsvc"
    folder.mkdir()
    logins = folder / "logins.toml"
    logins.touch(0o600)
    logins.write_text(
        '[right]\nuser = "relayuser"\npassword = "correct horse"\n[wrong]\nuser = "relayuser"\npassword = "no"\n'
    )
    (folder / "mailsvc.toml").write_text(
        f'[relay]\ncredentials_file = "{logins}"\nprivate_networks = ["{NETWORK}.0/24"]\n'
    )
    service = RunningService(
        folder,
        options=[f"--config={folder}/mailsvc.toml"],
        environment={"SSL_CERT_FILE": str(here.ca)},
        prefix=here.world.enter,
    )
    service.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(service.stop)
    return service


class SendingCase(SynchronousTestCase):
    """A test with an account and a marker that nobody else has; the log of the service must stay free of errors."""

    here: Peering
    service: RunningService
    user: User

    def setUp(self) -> None:
        self.here = peering()
        self.service = sending_service()
        self.user = new_user(self.service)
        self.marker = f"marker-{next(_numbers):06}"
        self.addCleanup(self._assert_no_alarm, len(self.service.log))

    def _assert_no_alarm(self, since: int) -> None:
        self.assertEqual(self.service.alarms(since), [])

    def route(self, domain: str, *urls: str) -> None:
        """Lead a domain there."""
        self.routes({domain: urls})

    def routes(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Lead domains there."""
        with offline(str(self.service.database), create=False) as txn:
            for domain, urls in wanted.items():
                relays = tuple(parse_relay(url) for url in urls)
                add_route(txn, Route(RouteKind.TO, domain, relays), 0.0, replace=True)

    def message(self, body: bytes = b"hello\r\n", header: bytes = b"") -> bytes:
        """A complete message with this test's marker."""
        return (
            f"From: {self.user.address}\r\nSubject: {self.marker}\r\nMessage-ID: <{self.marker}@example.org>\r\n"
            "Date: Fri, 20 Nov 2026 12:00:00 +0000\r\n".encode()
            + header
            + b"\r\n"
            + body
        )

    def submit(
        self, message: bytes, recipients: Sequence[str], *, wishes: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        """Hand a message in as the user: ``options`` of MAIL, ``wishes`` of each RCPT."""
        with self.here.world.inside():
            session = smtplib.SMTP("localhost", self.service.ports["submission"], "client.example.org", 60)
        with session:
            session.starttls(context=ssl.create_default_context(cafile=self.service.ca))
            session.login(self.user.address, self.user.password)
            session.ehlo()
            if not all(map(str.isascii, recipients)):
                session.command_encoding = "utf-8"
            code, said = session.mail(self.user.address, options)
            self.assertEqual(code, 250, said)
            for recipient in recipients:
                code, said = session.rcpt(recipient, wishes)
                self.assertEqual(code, 250, said)
            code, said = session.data(message)
            self.assertEqual(code, 250, said)

    def became(self, recipients: Sequence[str], *, attempt: int = 1) -> dict[str, Became]:
        """What became of each at the first attempt, or another one, once it is known."""
        found: dict[str, Became] = {}

        def known() -> bool:
            with closing(sqlite3.connect(f"file:{self.service.database}?mode=ro", uri=True)) as connection:
                rows = connection.execute(
                    "SELECT kind, detail FROM event WHERE kind IN ('relayed', 'put off', 'given up') ORDER BY id"
                ).fetchall()
            tried = Counter[str]()
            for kind, detail in rows:
                event = json.loads(detail)
                text = event.get("reply") or event.get("why", "")
                tried[event["recipient"]] += 1
                if event["recipient"] in recipients and tried[event["recipient"]] == attempt:
                    became = Became(_KINDS[kind], event.get("host", ""), event.get("channel", ""), text)
                    found.setdefault(event["recipient"], became)
            return len(found) == len(set(recipients))

        until(known, f"nothing is known of some of {recipients}; the service says:\n{self.service.log_tail()}")
        return found

    def reports(self, wanted: int = 1) -> list[bytes]:
        """What is in the user's mailbox, once there are so many messages in it."""
        fetched: list[bytes] = []

        def there() -> bool:
            with self.here.world.inside():
                context = ssl.create_default_context(cafile=self.service.ca)
                session = poplib.POP3_SSL("localhost", self.service.ports["pop3s"], timeout=60, context=context)
            session.user(self.user.address)
            session.pass_(self.user.password)
            (messages, _) = session.stat()
            fetched[:] = [b"\r\n".join(session.retr(number + 1)[1]) + b"\r\n" for number in range(messages)]
            session.quit()
            return messages >= wanted

        until(there, f"{self.user.address} has not got {wanted} messages; the service says:\n{self.service.log_tail()}")
        return fetched
