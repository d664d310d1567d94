"""From Dovecot to us and from us to Dovecot: clients see the same messages under the same unique-ids, in one order."""

from __future__ import annotations

import poplib
import shutil
import ssl
import tempfile
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.main import mailsvc as command
from mailsvc.mail.address import parse_address
from mailsvc.mailbox.uidlist import UidlFormat
from mailsvc.storage import accounts
from mailsvc.storage.opening import offline
from tests.interop.dovecot import Dovecot, fetch_all
from tests.interop.programs import SECONDS, InteropCase

VALIDITY = 1275660208
FORMATS = (
    "%08Xu%08Xv",  # its default
    "%v-%u",
    "%f",
    "%g",
    "%Mf",
    "%-4f|%.5f|%3.4f|%5f",
    "%Uf%Lf",
    "%Rf%%",
    "%5u|%05u|%-05u|%2.3v|%2.05v|%-3.2v|%.-2v",
    "%XMu|%Tu",
)


def message(number: int) -> bytes:
    """A message with what is easily spoilt: dots, From, CRLF, and a line end at its end (an import gives it one)."""
    return b"Subject: %d\n\n.\n..x\nFrom me\n>From you\r\n\r\r\nend\n" % number


def fill(maildir: Path) -> None:
    """Messages that a Dovecot has numbered in a way of its own, and two that it has not seen."""
    for part in ("tmp", "new", "cur"):
        (maildir / part).mkdir()
    names = [f"170000000{number}.M{number}P12.host" for number in range(9)]
    for number, name in enumerate(names):
        where = f"new/{name}" if number > 6 else f"cur/{name}:2,{'S' * (number % 2)}"
        (maildir / where).write_bytes(message(number))
    (maildir / "dovecot-uidlist").write_text(
        f"3 V{VALIDITY} N30 G3085f01b7f11094c501100008c4a11c1\n"
        f"1 O5 :{names[3]}\n2 O2 P :{names[1]}\n3 Gmyguid :{names[2]}\n4 O9 Pown-id :{names[0]}\n"
        f"8 P[of@another!server] :{names[4]}\n11 :{names[6]}\n20 :{names[5]}\n"
    )


class DovecotCase(SynchronousTestCase):
    """A Dovecot of this test, ended with it."""

    def dovecot(self, uidl_format: str = FORMATS[0]) -> Dovecot:
        """An instance that is not started yet, with an empty Maildir."""
        # Its sockets have names that may not be long.
        folder = Path(tempfile.mkdtemp(prefix="mailsvc-dovecot-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        dovecot = Dovecot(folder, uidl_format)
        self.addCleanup(dovecot.stop)
        return dovecot


class FormatTests(DovecotCase):
    def test_formats(self) -> None:
        """Each pop3_uidl_format gives what Dovecot itself makes of it."""
        for text in FORMATS:
            dovecot = self.dovecot(text)
            for part in ("tmp", "new", "cur"):
                (dovecot.maildir / part).mkdir()
            name = "1700000000.M0P12.host,S=2"
            (dovecot.maildir / "cur" / f"{name}:2,").write_bytes(b"x\n")
            (dovecot.maildir / "dovecot-uidlist").write_text(
                f"3 V{VALIDITY} N30 G3085f01b7f11094c501100008c4a11c1\n7 Gmyguid :{name}\n"
            )
            dovecot.start()
            session = dovecot.session()
            [line] = session.uidl()[1]
            session.quit()
            dovecot.stop()
            ours = UidlFormat.parse(text).expand(uid=7, validity=VALIDITY, name=name, guid="myguid")
            self.assertEqual(line.decode(), f"1 {ours}", text)


class MoveTests(DovecotCase, InteropCase):
    """The service beside a Dovecot."""

    def mailbox(self, *arguments: str) -> str:
        """`mailsvc mailbox ...` on the database of the running service."""
        result = CliRunner(env={"MAILSVC_DATABASE": None, "MAILSVC_CONFIG": None}).invoke(
            command, ["--database", str(self.service.database), "mailbox", *arguments]
        )
        self.assertEqual(result.exit_code, 0, f"{result.output}{result.exception}")
        return result.stdout

    def ours(self, address: str) -> poplib.POP3:
        """A session with the service."""
        context = ssl.create_default_context(cafile=self.service.ca)
        session = poplib.POP3_SSL("localhost", self.port("pop3s"), context=context, timeout=SECONDS / 2)
        session.user(address)
        session.pass_(self.user.password)
        return session

    def test_from_dovecot(self) -> None:
        """After an import, UIDL, order, sizes and octets are what Dovecot gave, in several formats."""
        for number, text in enumerate(FORMATS[:4]):
            dovecot = self.dovecot(text)
            fill(dovecot.maildir)
            dovecot.start()
            session = dovecot.session()
            sizes = session.list()[1]
            theirs = fetch_all(session)
            dovecot.stop()
            [user] = self.service.add_users(f"moved{number}.{id(self)}@example.org")
            self.mailbox("import", user.address, str(dovecot.maildir), "--uidl-format", text)
            session = self.ours(user.address)
            self.assertEqual(session.list()[1], sizes)
            found = fetch_all(session)
            self.assertEqual(list(found.items()), list(theirs.items()), text)
            self.assertEqual(len(found), 9)

    def test_to_dovecot_and_back(self) -> None:
        """After an export, Dovecot gives the same again; and after another import so do we."""
        dovecot = self.dovecot()
        fill(dovecot.maildir)
        self.mailbox("import", self.user.address, str(dovecot.maildir))
        session = self.ours(self.user.address)
        sizes = session.list()[1]
        first = fetch_all(session)
        shutil.rmtree(dovecot.maildir)
        self.mailbox("export", self.user.address, str(dovecot.maildir), "--format", "maildir")
        dovecot.start()
        session = dovecot.session()
        self.assertEqual(session.list()[1], sizes)
        self.assertEqual(list(fetch_all(session).items()), list(first.items()))
        dovecot.stop()
        self.assertEqual([line for line in dovecot.rest_of_log() if "Error" in line and "anvil" not in line], [])
        address = f"back.{id(self)}@example.org"
        with offline(str(self.service.database), create=False) as txn:
            row = accounts.account(txn, self.user.address)
            assert row is not None
            accounts.add_account(txn, parse_address(address), row.password_hash, 0.0)
        self.mailbox("import", address, str(dovecot.maildir))
        self.assertEqual(list(fetch_all(self.ours(address)).items()), list(first.items()))
