"""``mailsvc send`` and ``mailsvc sendmail`` as processes: into our own service, to Postfix, on pipes, with the network
away."""

from __future__ import annotations

import json
import os
import socket
import sys
from email import message_from_bytes
from pathlib import Path

from tests.interop.clients import poplib_fetches
from tests.interop.postfix import Postfix
from tests.interop.programs import Done, InteropCase, run
from tests.running import PASSWORD, ROOT, after_trace, python_environment

SENDMAIL = "import sys; from mailsvc.cli.start import sendmail; sys.argv[0] = 'sendmail'; sys.exit(sendmail())"


class CommandCase(InteropCase):
    """The commands, with the configuration of the running service."""

    def setUp(self) -> None:
        super().setUp()
        self.configuration = self.home / "mailsvc.toml"
        self.configure()

    def configure(self, more: str = "", database: Path | None = None) -> None:
        listeners = "".join(
            f'{name} = "tcp:{self.port(name)}:interface=127.0.0.1"\n' for name in ("smtp", "submission", "submissions")
        )
        self.configuration.write_text(
            f'hostname = "mail.example.org"\ncerts = "{self.service.certs.folder}"\n'
            f'database = "{database or self.service.database}"\n[listen]\n{listeners}{more}'
        )

    def command(self, *words: str, stdin: bytes = b"") -> Done:
        return self.python("-m", "mailsvc", *words, stdin=stdin)

    def sendmail(self, *words: str, stdin: bytes = b"Subject: x\n\nhi\n") -> Done:
        return self.python("-c", SENDMAIL, *words, stdin=stdin)

    def python(self, *words: str, stdin: bytes) -> Done:
        environment = python_environment(ROOT, MAILSVC_CONFIG=str(self.configuration))
        return run([sys.executable, *words], home=self.home, stdin=stdin, environment=environment)


class IntoOurs(CommandCase):
    def test_local(self) -> None:
        """Into the service of this machine, over TLS whose name was verified; the verdict says all of it."""
        words = ["send", "--local", "--subject", "Grüße", "--body", "hällo", "--json", self.user.address]
        done = self.command(*words)
        self.assertEqual(done.status, 0, done.text)
        [told] = json.loads(done.output)["recipients"]
        self.assertEqual((told["result"], told["level"], told["host"]), ("delivered", "name", "mail.example.org"))
        [fetched] = poplib_fetches(self)
        self.assertIn(f"id {told['id']}".encode(), fetched)
        self.assertIn("hällo".encode(), _decoded(after_trace(fetched)))

    def test_submission(self) -> None:
        """With a login, on both ports of submission; the dialogue is shown without the password."""
        for name, scheme in (("submission", "tls"), ("submissions", "smtps")):
            url = f"{scheme}://localhost:{self.port(name)}?ca={self.service.ca}"
            login = ["--user", self.user.address, "--password-stdin"]
            self.with_verifier()
            words = ["send", "-v", "--via", url, *login, "--subject", "x", "--from", self.user.address]
            done = self.command(*words, self.user.address, stdin=f"{PASSWORD}\n".encode())
            self.assertEqual(done.status, 0, done.text)
            self.assertIn(b"C: AUTH SCRAM-SHA-256-PLUS ********", done.errors)
            self.assertNotIn(PASSWORD, done.text)
            words = [*words, "--mechanism", "PLAIN"]
            done = self.command(*words, self.user.address, stdin=f"{PASSWORD}\n".encode())
            self.assertIn(b"C: AUTH PLAIN ********", done.errors)

    def with_verifier(self) -> None:
        """The account as `mailsvc user passwd` leaves it."""
        done = self.command("user", "passwd", self.user.address, "--password-stdin", stdin=f"{PASSWORD}\n".encode())
        self.assertEqual(done.status, 0, done.text)

    def test_refused(self) -> None:
        """Nobody of that name: 5; no such port: 4; a name that is not verified: 6."""
        done = self.command("send", "--local", "--subject", "x", "nobody@example.org")
        self.assertEqual(done.status, 5, done.text)
        self.assertIn(b"550 5.1.1 No such user here", done.output)
        done = self.command("send", "--via", "smtp://127.0.0.1:1", "--subject", "x", "nobody@example.org")
        self.assertEqual(done.status, 4, done.text)
        url = f"tls://localhost:{self.port('smtp')}"
        done = self.command("send", "--via", url, "--subject", "x", self.user.address)
        self.assertEqual(done.status, 6, done.text)
        self.assertIn(b"Not sent", done.output)

    def test_sendmail_beside_the_service(self) -> None:
        """What sendmail stores the running service hands out, and queues."""
        done = self.sendmail("-i", self.user.address, "bob@unknown.example", stdin=b"Subject: cron\n\nout\n")
        self.assertEqual((done.status, done.text), (0, ""))
        [fetched] = poplib_fetches(self)
        self.assertTrue(fetched.endswith(b"\r\n\r\nout\r\n"))
        self.assertIn("goes out to bob@unknown.example", self.command("why", "bob@unknown.example").text)
        self.assertEqual(self.sendmail("-bp").status, 0)

    def test_smtp_on_pipes(self) -> None:
        """-bs: a whole session, also when the pipe is closed without QUIT and with much sent ahead."""
        one = (
            f"MAIL FROM:<{self.user.address}>\r\nRCPT TO:<{self.user.address}>\r\nDATA\r\n"
            "Subject: bs\r\n\r\nhi\r\n.\r\n"
        ).encode()
        done = self.sendmail("-bs", stdin=b"EHLO me\r\n" + one * 30)
        self.assertEqual(done.status, 0, done.text)
        self.assertEqual(done.output.count(b"250 2.0.0 Ok: stored as"), 30)
        self.assertNotIn(b"STARTTLS", done.output)
        self.assertEqual(len(poplib_fetches(self)), 30)


class WithTheNetworkAway(CommandCase):
    def test_it_is_queued(self) -> None:
        """A relay that does not answer: the mail is in the queue, and the status is 0.

        Rule: Handing in: with the network away sendmail queues
        """
        self.configure('[sendmail]\nvia = "smtp://127.0.0.1:1"\n')
        done = self.sendmail("-i", "-f", self.user.address, "bob@unknown.example")
        self.assertEqual((done.status, done.text), (0, ""))
        # The service may have tried it by now; that it was queued is history.
        self.assertIn("goes out to bob@unknown.example", self.command("why", "bob@unknown.example").text)

    def test_nothing_to_queue_in(self) -> None:
        """No relay and no database: 75, and the caller keeps the mail."""
        self.configure('[sendmail]\nvia = "smtp://127.0.0.1:1"\n', database=self.home / "none.sqlite3")
        self.assertEqual(self.sendmail("bob@unknown.example").status, 75)

    def test_without_the_rights(self) -> None:
        """Who may not write the database gives mail to the running service, for its own addresses."""
        self.configure(database=self.home / "none.sqlite3")
        done = self.sendmail(self.user.address)
        self.assertEqual((done.status, done.text), (0, ""))
        self.assertEqual(len(poplib_fetches(self)), 1)
        done = self.sendmail("bob@unknown.example")
        self.assertEqual(done.status, 69)
        self.assertIn("there is no database", done.text)


class ToPostfix(CommandCase):
    options = ("--lmtp=unix:lmtp.sock:mode=666",)

    def test_through_a_relay(self) -> None:
        """Postfix takes it, says under which id, and hands it to our own service."""
        os.chmod(self.service.folder, 0o711)
        domains = {"example.org": f"lmtp:unix:{self.service.folder}/lmtp.sock"}
        self.home.chmod(0o711)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        postfix = Postfix(self.home / "postfix", self.service.ca, domains, port=port)
        self.addCleanup(postfix.stop)
        postfix.start()
        words = ["send", "--via", f"smtp://127.0.0.1:{port}", "--json", "--subject", "by Postfix"]
        done = self.command(*words, self.user.address)
        self.assertEqual(done.status, 0, done.text)
        [told] = json.loads(done.output)["recipients"]
        self.assertIn(f"queued as {told['id']}", told["text"])
        self.assertEqual(postfix.results(1)[self.user.address][0], "sent")
        self.assertIn(b"Subject: by Postfix\r\n", poplib_fetches(self)[0])


def _decoded(message: bytes) -> bytes:
    payload = message_from_bytes(message).get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload
