"""`mailsvc doctor`: each thing that is wrong is found, and nothing else is."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.keys import encode_key, new_key
from mailsvc.cli import listening
from mailsvc.cli.doctor import MOST_NAMES, Check, examined, names_to_ask
from mailsvc.cli.listening import NotServed, NotTried, Place, place_of
from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts
from mailsvc.storage.opening import offline
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.table import make_table
from tests import pki
from tests.pki import HOSTNAME, make_certs


def credential(*names: str) -> Credential:
    """One for these names."""
    issued = pki.credential(names)
    return make_credential(names[0], (issued.certificate,), issued.key)


OFF = {f"listen.{name}": [""] for name in ("smtp", "submission", "submissions", "pop3")}


@contextmanager
def server(*says: bytes) -> Iterator[str]:
    """An endpoint where each line of a client gets the next of these; the first is the greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            # The client goes away when it has heard enough.
            with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
                for said in says:
                    connection.sendall(said)
                    lines.readline()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp:{listener.getsockname()[1]}:interface=127.0.0.1"
        thread.join(10)


class DoctorCase(SynchronousTestCase):
    """A setup that is right, with one listener that nobody serves."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.certs = make_certs(folder / "certs")
        self.database = folder / "mail.sqlite3"
        with offline(str(self.database), create=True) as txn:
            accounts.add_account(txn, parse_address("alice@example.org"), "$argon2id$hash", 1.0)
        self.options: dict[str, object] = {
            "certs": str(self.certs.folder),
            "hostname": HOSTNAME,
            "database": str(self.database),
            **OFF,
            "listen.pop3s": ["tcp:1:interface=127.0.0.1"],
        }

    def checks(self) -> list[Check]:
        return list(examined(None, self.options, {}, datetime.now(UTC)))

    def errors(self) -> list[str]:
        return [f"{each.area}: {each.text}" for each in self.checks() if each.severity == "error"]


class DoctorTests(DoctorCase):
    """What is found without a service."""

    def test_only_the_service_is_missing(self) -> None:
        """One error, and everything else is said to be right."""
        (error,) = self.errors()
        self.assertIn("the service does not run", error)
        good = {each.area for each in self.checks() if each.severity == "ok"}
        self.assertEqual(good, {"settings", "database", "postmaster", "certificates"})

    def test_which_names_are_asked_for(self) -> None:
        """Each certificate has its turn before any has a second, one below a wildcard stands for it, and what is beyond
        the limit is counted."""
        many = credential(*(f"m{number}.example.org" for number in range(MOST_NAMES + 20)))
        table = make_table([many, credential("*.wild.example.org"), credential("one.example.net")], HOSTNAME)
        names, further = names_to_ask(table)
        self.assertEqual(names[:4], ["m0.example.org", "any.wild.example.org", "one.example.net", "m1.example.org"])
        self.assertEqual((len(names), further), (MOST_NAMES, 22))
        self.assertEqual(names_to_ask(make_table([credential("a.example.org")], HOSTNAME)), (["a.example.org"], 0))

    def test_settings(self) -> None:
        """Nothing else is looked at when they are wrong."""
        self.options["listen.pop3s"] = ["tpc:1"]
        checks = self.checks()
        self.assertEqual({each.area for each in checks}, {"settings"})
        self.assertIn("error", {each.severity for each in checks})

    def test_certificates(self) -> None:
        """The gate's own words."""
        (self.certs.folder / HOSTNAME / "privkey.pem").write_bytes(encode_key(new_key()))
        self.assertIn("does not fit the certificate", self.errors()[0])

    def test_database(self) -> None:
        """One that is not there yet is no mistake; one that is no database is."""
        self.database.unlink()
        self.assertEqual([each.severity for each in self.checks() if each.area == "database"], ["note"])
        self.database.write_text("this is no database" * 100)
        self.assertTrue(any(each.startswith("database: ") for each in self.errors()))

    def test_nobody_is_postmaster(self) -> None:
        """A warning: what the service has to tell reaches nobody."""
        with offline(str(self.database), create=False) as txn:
            accounts.remove_account(txn, "alice@example.org")
        (found,) = [each for each in self.checks() if each.area == "postmaster"]
        self.assertEqual(found.severity, "warning")


class ListeningTests(SynchronousTestCase):
    """What a listener says, whatever listens there."""

    def test_places(self) -> None:
        """Every kind of endpoint is reached where it can be, or said not to be."""
        for endpoint, place in {
            "tcp:25": "127.0.0.1:25",
            "tcp:25:interface=192.0.2.1": "192.0.2.1:25",
            "tcp:25:interface=\\:\\:": "[::1]:25",
            "tcp6:25": "[::1]:25",
            "unix:/run/x.sock:mode=660": "/run/x.sock",
        }.items():
            self.assertEqual(str(place_of(endpoint)), place)
        for endpoint in ("tcp:0", "systemd:domain=INET:index=0", "haproxy:tcp:25", "onion:25"):
            self.assertRaises(NotTried, place_of, endpoint)

    def why(self, endpoint: str, name: str) -> str:
        return str(self.assertRaises(NotServed, listening.certificate, name, place_of(endpoint), HOSTNAME))

    def test_what_is_no_mail_server(self) -> None:
        """A refusal, another protocol, an endless line, a server without TLS: a sentence each, and never a hang."""
        for name, says, sentence in (
            ("smtp", [b"554 go away\r\n"], "it answers '554 go away'"),
            ("smtp", [b"220 hello\r\n", b"250 x\r\n", b"502 no TLS\r\n"], "it answers '502 no TLS'"),
            ("pop3", [b"+OK\r\n", b"-ERR\r\n"], "it answers '-ERR'"),
            ("pop3", [b"SSH-2.0-x\r\n"], "it answers 'SSH-2.0-x'"),
            ("smtp", [b"\x1b" * 5000], "it answers"),
            ("smtp", [b"220-x\r\n" * 200], "has no end"),
            ("pop3", [], "closes the connection"),
            ("pop3s", [b"+OK in clear\r\n"], "the TLS handshake failed"),
        ):
            with server(*says) as endpoint:
                found = self.why(endpoint, name)
            self.assertIn(sentence, found)
            self.assertTrue(found.isprintable(), found)

    def test_nobody(self) -> None:
        """A port without a listener."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        place = Place(socket.AF_INET, ("127.0.0.1", port))
        self.assertIn("nobody answers", str(self.assertRaises(NotServed, listening.greeting, "lmtp", place)))
