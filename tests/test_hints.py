"""The three commands of the first start: right for the shell, the folder and the ports in question."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config import Configuration
from mailsvc.hints import first_steps, our_command

PORTS = {"submission": ("127.0.0.1", 2587), "pop3": ("127.0.0.1", 2110)}


class FirstSteps(SynchronousTestCase):
    def setUp(self) -> None:
        self.here = Path(self.mktemp()).absolute()
        (self.here / "certs" / "ca").mkdir(parents=True)
        (self.here / "certs" / "ca" / "ca.pem").touch()

    def steps(self, database: str = "emaildb.sqlite3", **changes: object) -> list[str]:
        configuration = replace(Configuration(), **changes)  # type: ignore[arg-type]
        return list(
            first_steps(configuration, str(self.here / database), PORTS, here=self.here, command=".venv/bin/mailsvc")
        )

    def test_the_first_line_says_where(self) -> None:
        """What follows holds in that folder only, so it is named."""
        self.assertEqual(self.steps()[0], f"try next, in another terminal, in {self.here}:")

    def test_short_where_defaults_do(self) -> None:
        """The default database needs no option, the CA below the folder no absolute path."""
        _, add, send, fetch = self.steps()
        self.assertEqual(add.strip(), ".venv/bin/mailsvc user add alice@example.org")
        self.assertIn(" --cacert certs/ca/ca.pem ", send)
        self.assertEqual(
            fetch.strip(),
            "curl -sS --ssl-reqd --cacert certs/ca/ca.pem --user alice@example.org pop3://localhost:2110/1",
        )

    def test_another_database_is_named(self) -> None:
        """Below the folder or elsewhere, and quoted for the shell."""
        self.assertIn(" --database 'my mail.db' ", self.steps("my mail.db")[1])
        self.assertIn(" --database /srv/mail.db ", self.steps("/srv/mail.db")[1])

    def test_a_folder_of_certificates_elsewhere(self) -> None:
        """Its CA is named whole; where there is no private CA the system's are used."""
        elsewhere = Path(self.mktemp()).absolute()
        self.assertNotIn("--cacert", self.steps(certs=elsewhere)[2])
        (elsewhere / "ca").mkdir(parents=True)
        (elsewhere / "ca" / "ca.pem").touch()
        self.assertIn(f" --cacert {elsewhere}/ca/ca.pem ", self.steps(certs=elsewhere)[2])

    def test_the_name_is_the_certificates(self) -> None:
        """curl checks the name of the service, also when nobody but this machine knows it."""
        _, add, send, fetch = self.steps(hostname="mail.example.net")
        self.assertIn("alice@mail.example.net", add)
        for line, url in ((send, "smtp://mail.example.net:2587/"), (fetch, "pop3://mail.example.net:2110/1")):
            self.assertTrue(line.endswith(f" {url}"), line)
            self.assertIn(" --connect-to ::127.0.0.1: ", line)

    def test_a_listener_that_is_off_has_no_line(self) -> None:
        """Only what works is shown."""
        lines = first_steps(Configuration(), str(self.here / "emaildb.sqlite3"), {}, here=self.here, command="mailsvc")
        self.assertEqual(len(lines), 2)

    def test_every_line_is_one_for_the_shell(self) -> None:
        """Each can be split as a shell would; the message is piped, not typed."""
        for line in self.steps("it's mine.db")[1:]:
            self.assertGreater(len(shlex.split(line)), 3)


class OurCommand(SynchronousTestCase):
    def setUp(self) -> None:
        self.here = Path(self.mktemp()).absolute()
        self.bin = self.program(".venv/bin")

    def program(self, folder: str) -> Path:
        """A folder with a `mailsvc` that can be run."""
        path = self.here / folder
        path.mkdir(parents=True)
        (path / "mailsvc").touch(mode=0o755)
        return path

    def command(self, search: Path | str, here: Path | None = None) -> str:
        return our_command(here or self.here, str(self.bin / "python3"), str(search))

    def test_by_its_path_where_the_shell_would_not_find_it(self) -> None:
        """`make run` does not change anybody's PATH."""
        self.assertEqual(self.command("/nonexistent"), ".venv/bin/mailsvc")
        self.assertEqual(self.command("/nonexistent", Path("/")), str(self.bin / "mailsvc"))

    def test_by_its_name_where_it_would(self) -> None:
        """An activated environment."""
        self.assertEqual(self.command(self.bin), "mailsvc")

    def test_another_mailsvc_is_not_meant(self) -> None:
        """One of that name in PATH that is not ours would work on other code."""
        self.assertEqual(self.command(self.program("other")), ".venv/bin/mailsvc")

    def test_as_a_module_where_nothing_is_installed(self) -> None:
        """`PYTHONPATH=.` has no programs."""
        (self.bin / "mailsvc").unlink()
        self.assertEqual(self.command("/nonexistent"), f"{self.bin}/python3 -m mailsvc")
