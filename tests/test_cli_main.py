"""The `mailsvc` command as a whole: common options, exits, and `mailsvc config`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

import mailsvc
from mailsvc.cli.main import COMMANDS, Common
from mailsvc.cli.main import mailsvc as command
from mailsvc.config import SETTINGS
from mailsvc.errors import ConfigurationRefused

ROOT = Path(mailsvc.__file__).resolve().parent.parent
UNSET = {"MAILSVC_DATABASE": None, "MAILSVC_CONFIG": None}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own, from a folder that is not ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILSVC_")}
    return subprocess.run(
        [sys.executable, "-m", "mailsvc", *arguments],
        cwd="/",
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Exits(SynchronousTestCase):
    def test_yes_is_0(self) -> None:
        """What works says so on stdout and nothing on stderr."""
        done = run("config", "check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout.startswith("The configuration is right"))

    def test_no_is_1_and_each_problem_a_line(self) -> None:
        """A foreseen failure is sentences on stderr."""
        done = run("--config", "/does/not/exist.toml", "config", "check")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertTrue(done.stderr.startswith("mailsvc: /does/not/exist.toml: "), done.stderr)

    def test_wrong_usage_is_2(self) -> None:
        """An unknown command or option is told apart from an answer of no."""
        for wrong in [["nonsense"], ["--nonsense"], ["config", "describe", "smtp.message_sise"]]:
            done = run(*wrong)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertNotIn("Traceback", done.stderr)
        self.assertIn("did you mean smtp.message_size?", done.stderr)
        self.assertIn("Did you mean 'user'?", run("usr", "list").stderr)

    def test_a_reader_that_has_seen_enough_is_no_error(self) -> None:
        """`mailsvc config describe | head` shows no traceback."""
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "mailsvc", "config", "describe"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        os.close(writer)
        self.assertEqual(done.stderr, b"")

    def test_every_command_is_there(self) -> None:
        """Each name of the help loads, and its own help works."""
        for name in COMMANDS:
            done = CliRunner().invoke(command, [name, "--help"])
            self.assertEqual(done.exit_code, 0, f"{name}: {done.exception!r}")


class CommonOptions(SynchronousTestCase):
    def test_the_database_option_wins(self) -> None:
        """It overrides the configuration file."""
        file = Path(self.mktemp())
        file.write_text('database = "/srv/file.sqlite3"\n')
        self.assertEqual(Common(None, str(file)).database, "/srv/file.sqlite3")
        self.assertEqual(Common("mine.sqlite3", str(file)).database, "mine.sqlite3")

    def test_text_without_quotes(self) -> None:
        """What is most often wrong with TOML is said with an example."""
        file = Path(self.mktemp())
        file.write_text("hostname = mail.example.org\n")
        with self.assertRaisesRegex(ConfigurationRefused, "texts stand in quotes"):
            Common(None, str(file)).database  # noqa: B018  # the property raises

    def test_a_mistake_in_the_file_is_refused(self) -> None:
        """No command works on a guess."""
        file = Path(self.mktemp())
        file.write_text("databse = 5\n")
        with self.assertRaises(ConfigurationRefused):
            Common(None, str(file)).database  # noqa: B018  # the property raises


class ConfigCommands(SynchronousTestCase):
    def invoke(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, env=UNSET, standalone_mode=False)

    def test_check_tells_programs_everything(self) -> None:
        """`--json` holds all problems, and the status is still 1."""
        file = Path(self.mktemp())
        file.write_text('tls = "never"\nnonsense = 1\n')
        done = self.invoke("--config", str(file), "config", "check", "--json")
        self.assertEqual(done.return_value, 1)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["ok"], len(answer["problems"])), (False, 2))
        good = self.invoke("config", "check", "--json")
        self.assertEqual(good.return_value, 0)
        self.assertIs(json.loads(good.stdout)["ok"], True)

    def test_describe_prints_every_setting_as_a_file(self) -> None:
        """The output is TOML and names each setting."""
        document = tomllib.loads(self.invoke("config", "describe").stdout)
        self.assertEqual(document["smtp"]["message_size"], SETTINGS["smtp.message_size"].default)

        def leaves(value: object) -> int:
            return sum(map(leaves, value.values())) if isinstance(value, dict) else 1

        self.assertEqual(leaves(document), len(SETTINGS))

    def test_describe_tells_programs_where_a_value_came_from(self) -> None:
        """`--json` has value, default, source, what is allowed, and help."""
        done = self.invoke("--database", "x.sqlite3", "config", "describe", "--json", "database", "limits.connections")
        database, connections = json.loads(done.stdout)["settings"]
        self.assertEqual((database["value"], database["source"]), ("x.sqlite3", "--database"))
        self.assertEqual(database["default"], "emaildb.sqlite3")
        self.assertEqual((connections["value"], connections["source"]), (2000, "default"))
