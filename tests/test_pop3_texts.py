"""What the POP3 server says, in every language, and the codes of its failures."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import mailsvc.pop3
from mailsvc.config import SETTINGS
from mailsvc.pop3.texts import CODES, DEFAULT, LANGUAGES, TEXTS, Refusal, Reply, language_for, says


def places(text: str) -> set[str]:
    """The names of the values in a text."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


class TableTests(SynchronousTestCase):
    """The tables fit each other, and the code fits the tables."""

    def test_every_text_in_every_language(self) -> None:
        """All languages have the same keys, with the same places for values.

        Rule: POP3: LANG
        """
        self.assertEqual(set(TEXTS), set(LANGUAGES))
        for language, table in TEXTS.items():
            self.assertEqual(set(table), set(TEXTS[DEFAULT]), language)
            for key, text in table.items():
                self.assertEqual(places(text), places(TEXTS[DEFAULT][key]), (language, key))

    def test_what_can_be_a_line(self) -> None:
        """No text has a control character, or begins like a response code; English is ASCII, before LANG all is."""
        for language, table in TEXTS.items():
            for key, text in table.items():
                self.assertTrue(
                    text.isprintable() and text == text.strip() and text[:1] not in ("[", ""), (language, key)
                )
                # A line has 512 octets at most (RFC 2449 section 4).
                self.assertLess(len(text.encode("utf-8")), 300, (language, key))
        self.assertTrue(all(text.isascii() for text in TEXTS[DEFAULT].values()))

    def test_texts_are_translated(self) -> None:
        """Hardly a text is the same as in English: what is left untranslated by mistake is seen here."""
        for language in set(LANGUAGES) - {DEFAULT}:
            same = {key for key, text in TEXTS[language].items() if text == TEXTS[DEFAULT][key]}
            self.assertEqual(same, set(), language)

    def test_codes(self) -> None:
        """Every failure has a code that programs know, or none where a mistake of the client is told.

        Rule: POP3: response codes
        """
        self.assertLess(set(CODES), set(TEXTS[DEFAULT]))
        self.assertEqual(set(CODES.values()), {"", "IN-USE", "LOGIN-DELAY", "AUTH", "SYS/TEMP", "SYS/PERM", "UTF8"})

    def test_every_text_is_said(self) -> None:
        """The code says every text of the table, and no other."""
        said: set[str] = set()
        for path in Path(mailsvc.pop3.__file__).parent.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and node.args:
                    name = node.func.id if isinstance(node.func, ast.Name) else ""
                    if name in ("says", "Refusal", "NoSuchMessage", "Reply"):
                        constants = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
                        said.update(each for each in constants if isinstance(each, str) and each)
        self.assertEqual(said - set(TEXTS[DEFAULT]), set())
        self.assertEqual(set(TEXTS[DEFAULT]) - said, set())

    def test_the_setting(self) -> None:
        """`pop3.language` may be any language that there is."""
        allowed = re.findall('"([a-z]+)"', SETTINGS["pop3.language"].kind.allowed)
        self.assertEqual(allowed, list(LANGUAGES))


class ReplyTests(SynchronousTestCase):
    """A key and values become a line."""

    def test_lines(self) -> None:
        """Status, code, what programs read, text."""
        for reply, language, line in (
            (says(""), "de", "+OK"),
            (says("", data="3 81"), "de", "+OK 3 81"),
            (says("bye"), "en", "+OK bye"),
            (says("bye"), "de", "+OK auf Wiedersehen"),
            (says("unknown"), "en", "-ERR unknown command"),
            (says("in_use"), "de", "-ERR [IN-USE] eine andere Sitzung hat dieses Postfach geöffnet"),
            (says("language", data="fr"), "fr", "+OK fr français désormais"),
        ):
            self.assertEqual(reply.line(language), line)

    def test_refusal(self) -> None:
        """An error says the same as its reply, in English."""
        error = Refusal("deleted", number=3)
        self.assertEqual((str(error), error.reply.line()), ("message 3 is deleted", "-ERR message 3 is deleted"))
        self.assertEqual(error.reply, Reply("deleted", {"number": 3}))


class LanguageTests(SynchronousTestCase):
    """A language range leads to a language (RFC 4647 section 3.4)."""

    def test_lookup(self) -> None:
        """The range is cut from its end until it fits; letter case does not matter.

        Rule: POP3: LANG
        """
        for wish, language in {
            "de": "de",
            "DE-at": "de",
            "zh-Hans-CN": "zh",
            "fr-x-home": "fr",
            "*": "es",
            "": None,
            "-": None,
            "uga": None,
            "d": None,
            "de_AT": None,
            "*-DE": None,
            "i-default": None,
        }.items():
            self.assertEqual(language_for(wish, "es"), language, wish)

    @settings(deadline=None)
    @given(st.text(max_size=300))
    def test_any_range(self, wish: str) -> None:
        """Whatever is wished: a language that there is, or None."""
        self.assertIn(language_for(wish), {*LANGUAGES, None})
