"""What README and docs/ name exists: modules, tests, files, commands and settings; and no workplace slips in."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import mailsvc
from mailsvc.cli.main import COMMANDS
from mailsvc.config import SETTINGS
from tests.conformance import classes_of

ROOT = Path(mailsvc.__file__).resolve().parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]

_TEST = re.compile(r"``(tests/[\w/.]+)((?:::\w+)*)``")
_FILE = re.compile(r"``((?:mailsvc|docs|systemd|newsfragments|twisted)/[\w/.-]+)``")
_LINK = re.compile(r"<((?:\.\./)?(?:docs/)?[\w-]+\.rst)[^>]*>`__?")
_MODULE = re.compile(
    r"``((?:wire|smtp|pop3|storage|accounts|tls|certkit|config|mail|cli)\.(?!example)[a-z_]+)(?:\.\w+)?(?:\(\))?``"
)
_SETTING = re.compile(r"``((?:smtp|pop3|timeouts|limits|gate|accounts|listen)\.[a-z_]+)``")
_COMMAND = re.compile(r"(?:``|\$ |^    |bin/)mailsvc(?: --\w+ \S+)* ([a-z]+(?:-[a-z]+)*)", re.M)


def names_in(path: Path) -> set[str]:
    """`Class` and `Class::test` of a test file, inherited tests not counted."""
    names: set[str] = set()
    for case, functions in classes_of(path):
        names.add(case)
        names.update(f"{case}::{function}" for function, _ in functions)
    return names


class Pages(SynchronousTestCase):
    def setUp(self) -> None:
        if not PAGES[0].exists():
            raise SkipTest("an installed mailsvc without its documentation")
        self.texts = {page: page.read_text("utf-8") for page in PAGES}

    def found(self, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
        """Every match of a pattern, with its page; there is at least one, or the pattern is wrong."""
        found = [(page, match) for page, text in self.texts.items() for match in pattern.finditer(text)]
        self.assertNotEqual(found, [])
        return found

    def test_tests_exist(self) -> None:
        """A promise is shown by a test that is there."""
        missing = []
        for page, match in self.found(_TEST):
            path, name = ROOT / match[1], match[2].removeprefix("::")
            if not path.exists() or (name and name not in names_in(path)):
                missing.append(f"{page.name}: {match[0]}")
        self.assertEqual(missing, [])

    def test_files_exist(self) -> None:
        """So are other files, and pages that are linked to."""
        missing = [f"{page.name}: {match[1]}" for page, match in self.found(_FILE) if not (ROOT / match[1]).exists()]
        for page, match in self.found(_LINK):
            if not (page.parent / match[1]).exists():
                missing.append(f"{page.name}: {match[1]}")
        self.assertEqual(missing, [])

    def test_modules_and_settings_exist(self) -> None:
        """A dotted name is a module, or a setting."""
        settings = {match[1] for _, match in self.found(_SETTING) if match[1] in SETTINGS}
        missing = [
            f"{page.name}: {match[1]}"
            for page, match in self.found(_MODULE)
            if match[1] not in settings and not self.is_module(match[1])
        ]
        self.assertEqual(missing, [])

    @staticmethod
    def is_module(name: str) -> bool:
        """Whether `name` is a module below mailsvc."""
        return (ROOT / "mailsvc" / name.replace(".", "/")).with_suffix(".py").exists()

    def test_commands_exist(self) -> None:
        """`mailsvc user add` and the like."""
        self.assertEqual({match[1] for _, match in self.found(_COMMAND)} - set(COMMANDS), set())

    def test_no_workplace_is_named(self) -> None:
        """Paths in examples are a user's."""
        for page, text in self.texts.items():
            self.assertNotRegex(text, r"/tmp/|/root\b", page.name)
