"""`twistd mailsvc`: its options, and starts that are refused in sentences; without a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.application.service import Service
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config import SETTINGS
from mailsvc.errors import StartRefused
from mailsvc.tap import Options, Start, configuration


class TheOptions(SynchronousTestCase):
    def parsed(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_what_is_not_given_is_none(self) -> None:
        """Defaults are the configuration's matter, so that the file may stand between."""
        self.assertEqual(self.parsed().settings(), {"certs": None, "database": None, "hostname": None, "tls": None})

    def test_a_listener_may_be_given_more_than_once(self) -> None:
        """Each kind of listener collects its endpoints; an empty one is kept, it means "off"."""
        options = self.parsed("--smtp", "tcp:1", "--smtp=tcp:2", "--pop3", "")
        settings = options.settings()
        self.assertEqual(settings["listen.smtp"], ["tcp:1", "tcp:2"])
        self.assertEqual(settings["listen.pop3"], [""])
        self.assertNotIn("listen.pop3s", settings)

    def test_they_become_the_configuration(self) -> None:
        """What was typed is what is in force."""
        options = self.parsed("--hostname", "a.example.org", "--certs", "c", "--tls", "optional", "--smtp", "tcp:1")
        file = Path(self.mktemp())
        file.write_text("[limits]\nconnections = 7\n[pop3]\nidle_seconds = 60\n")
        options["config"] = str(file)
        settled = configuration(options)
        self.assertEqual((settled.hostname, settled.certs, settled.tls), ("a.example.org", Path("c"), "optional"))
        self.assertEqual((settled.listen.smtp, settled.limits.connections), (("tcp:1",), 7))

    def test_two_sets_of_options_share_nothing(self) -> None:
        """Endpoints are kept per instance."""
        self.parsed("--smtp", "tcp:1")
        self.assertNotIn("listen.smtp", self.parsed().settings())

    def test_every_setting_that_promises_an_option_has_one(self) -> None:
        """The table and the command line agree."""
        known = {option.rstrip("=") for option in Options().longOpt}
        promised = {setting.leaf for setting in SETTINGS.values() if setting.option}
        self.assertEqual(known - {"help", "version", "config"}, promised)

    def test_a_word_without_an_option_is_refused(self) -> None:
        """Nothing that was typed is silently left out."""
        self.assertRaises(usage.UsageError, self.parsed, "certs/")

    def test_the_help_names_defaults_and_the_next_step(self) -> None:
        """`--help` is enough to begin with."""
        text = " ".join(Options().getUsage(width=100).split())
        for word in [
            "tcp:2525:interface=127.0.0.1",
            "as root: tcp:25]",
            "mailsvc certs init",
            "emaildb.sqlite3",
        ]:
            self.assertIn(word, text)


class _Refusing(Service):
    """A service that cannot start, early or late."""

    def __init__(self, privileged: bool) -> None:
        self._privileged = privileged

    def privilegedStartService(self) -> None:
        if self._privileged:
            raise StartRefused(["port 25 is taken"])

    def startService(self) -> None:
        raise StartRefused(["the database is gone", "so is the certificate"])


class RefusedStarts(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.addCleanup(os.close, self.reader)
        self.pidfile = self.mktemp()
        Path(self.pidfile).write_text("1")

    def said(self) -> str:
        """What the terminal got; the writing end is closed by now, here or by the start."""
        return os.read(self.reader, 65536).decode()

    def test_each_problem_is_a_line_and_the_status_is_1(self) -> None:
        """A refused start ends the process, its pidfile is gone, and nobody sees a traceback."""
        start = Start(self.writer, {"pidfile": self.pidfile})
        start.addService(_Refusing(privileged=False))
        stopped = self.assertRaises(SystemExit, start.startService)
        self.assertEqual(stopped.code, 1)
        self.assertEqual(self.said(), "mailsvc: the database is gone\nmailsvc: so is the certificate\n")
        self.assertFalse(os.path.exists(self.pidfile))
        os.close(self.writer)

    def test_a_port_is_refused_before_privileges_are_dropped(self) -> None:
        """The early half of a start is held to the same."""
        start = Start(self.writer, {"pidfile": self.pidfile})
        start.addService(_Refusing(privileged=True))
        self.assertRaises(SystemExit, start.privilegedStartService)
        self.assertEqual(self.said(), "mailsvc: port 25 is taken\n")
        os.close(self.writer)

    def test_before_the_start_no_pidfile_is_touched(self) -> None:
        """While the service is only made, the pidfile may be that of another process."""
        start = Start(self.writer, {"pidfile": self.pidfile})

        def made() -> None:
            with start.told(started=False):
                raise StartRefused(["no"])

        self.assertRaises(SystemExit, made)
        self.assertTrue(os.path.exists(self.pidfile))
        os.close(self.writer)

    def test_the_parent_of_a_daemon_gets_a_word(self) -> None:
        """twistd's parent waits for one on its status pipe, for ever if need be."""
        parent, pipe = os.pipe()
        self.addCleanup(os.close, parent)
        start = Start(self.writer, {"pidfile": "", "statusPipe": pipe})
        start.addService(_Refusing(privileged=False))
        self.assertRaises(SystemExit, start.startService)
        os.close(pipe)
        self.assertEqual(os.read(parent, 100), b"1 the start was refused for the reasons above")
        os.close(self.writer)

    def test_a_good_start_lets_the_terminal_go(self) -> None:
        """A daemon keeps nobody's terminal open."""
        start = Start(self.writer, {"pidfile": self.pidfile})
        start.addService(Service())
        start.startService()
        self.assertEqual(self.said(), "")
        self.assertRaises(OSError, os.fstat, self.writer)
