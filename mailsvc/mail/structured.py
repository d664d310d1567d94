"""Header text beyond ASCII, taken apart and put together in ASCII: words, phrases, comments (RFC 5322, RFC 2047).

What the kinds of fields share when they are downgraded (`mailsvc.mail.downgrade`): the tokens of RFC 5322 section 3.2,
a `Line` that is written piece by piece and folded before an encoded word that would make it too long, and the three
places where RFC 2047 section 5 allows an encoded word.

The hardest idea: white space.  Readers drop it between two encoded words and keep it everywhere else (RFC 2047 section
6.2), so what lies between two words that must be encoded is encoded with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mailsvc.errors import MailsvcError
from mailsvc.mail.encoded import LINE, Charset, encoded_words, is_encoded_word

_DEPTH = 20
"""Of comments in comments."""

SPACE = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"([ \t\r\n]*)([^ \t\r\n]+)")
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r'|(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<literal>\[[^\[\]\\]*\])"
    r"|(?P<special>[<>,:;@().=])"
    r"|(?P<atom>[^\0-\x20\x7f<>,:;@().=\[\]\\\"]+)",
    re.DOTALL,
)
_COMMENT = re.compile(r"[^()\\]+|\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


Token = tuple[str, str]
"""(kind, text): space, comment, quoted, literal, special or atom."""


class NotInGrammar(MailsvcError):
    """The value cannot be read as its field's grammar says."""


class Line:
    """Text that is put together again, folded where encoded words would make a line too long."""

    def __init__(self, column: int) -> None:
        self._parts: list[str] = []
        self._last_words = ""
        self._behind_encoded = False
        self.column = column

    def plain(self, text: str) -> None:
        """As it is, folds included; a space is put in where an encoded word would not end (RFC 2047 section 5)."""
        if not text:
            return
        if self._behind_encoded and text[0] not in " \t\r\n)":
            text = " " + text
        self._behind_encoded = False
        self._parts.append(text)
        end = text.rfind("\n")
        self.column = self.column + len(text) if end < 0 else len(text) - end - 1
        words = text.rstrip(" \t\r\n")
        if words:
            self._last_words = words

    def encoded(self, text: str, charset: Charset) -> None:
        """As encoded words, with white space before each."""
        if not self._parts or self._parts[-1][-1] not in " \t(":
            self.plain(" ")
        for word in encoded_words(text, charset, LINE - self.column):
            if self._behind_encoded:
                self.plain(" ")
            if self.column + len(word) > LINE:
                self._fold()
            self.plain(word)
            self._behind_encoded = True

    @property
    def after_encoded_word(self) -> bool:
        """Whether white space would vanish here if an encoded word came next."""
        words = self._last_words
        return is_encoded_word(words[max(words.rfind(space) for space in " \t\n") + 1 :])

    def _fold(self) -> None:
        """A line end before the white space that was written last."""
        last = self._parts[-1]
        rest = last.rstrip(" \t")
        if rest != last and not rest.endswith("\n"):
            self._parts[-1] = f"{rest}\r\n{last[len(rest) :]}"
            self.column = len(last) - len(rest)

    def __str__(self) -> str:
        return "".join(self._parts)


def write_words(line: Line, words: Iterable[tuple[str, str]], charset: Charset) -> None:
    """Words with the white space before each; those beyond ASCII are encoded, neighbours among them together."""
    run: list[str] = []
    before = ""
    for space, word in words:
        if not word.isascii():
            if not run:
                before = space
                if line.after_encoded_word:
                    run.append(_unfolded(space))
            else:
                run.append(_unfolded(space))
            run.append(word)
            continue
        if run:
            if is_encoded_word(word):
                run.append(_unfolded(space))
            _write_run(line, before, run, charset)
        line.plain(space + word)
    if run:
        _write_run(line, before, run, charset)


def _write_run(line: Line, before: str, run: list[str], charset: Charset) -> None:
    line.plain(before)
    line.encoded("".join(run), charset)
    run.clear()


def _unfolded(space: str) -> str:
    return space.replace("\r", "").replace("\n", "")


def unstructured(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.1.1."""
    line = Line(column)
    write_words(line, words_of(text), charset)
    line.plain(_space_at_end(text))
    return str(line)


def as_one(text: str, charset: Charset, column: int) -> str:
    """The whole value as encoded words, whatever it is: cheap, readable, and no structure is left of it."""
    line = Line(column)
    line.encoded(SPACE.sub(" ", text.strip(" \t\r\n")), charset)
    return str(line)


def words_of(text: str) -> Iterable[tuple[str, str]]:
    """Each word with the white space before it; what stands behind the last word is left out."""
    # Without a word behind it the pattern would be tried at each place of a long run of white space.
    return _WORD.findall(text.rstrip(" \t\r\n"))


def _space_at_end(text: str) -> str:
    return text[len(text.rstrip(" \t\r\n")) :]


def tokens_of(text: str) -> list[Token]:
    """Raises `NotInGrammar`."""
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or token[0] == ")":
            raise NotInGrammar("a character stands where none belongs")
        place = token.end()
        if token[0] == "(":
            end = _end_of_comment(text, place)
            tokens.append(("comment", text[place - 1 : end]))
            place = end
        else:
            tokens.append((str(token.lastgroup), token[0]))
    return tokens


def _end_of_comment(text: str, place: int) -> int:
    depth = 1
    while depth:
        part = _COMMENT.match(text, place)
        if part is None or depth > _DEPTH:
            raise NotInGrammar("a comment does not end")
        place = part.end()
        depth += {"(": 1, ")": -1}.get(part[0], 0)
    return place


def all_ascii(tokens: Iterable[Token]) -> bool:
    return all(text.isascii() for _, text in tokens)


def text_of(tokens: Iterable[Token]) -> str:
    return "".join(text for _, text in tokens)


def content_of(token: Token) -> str:
    kind, text = token
    return _QUOTED_PAIR.sub(r"\1", text[1:-1]) if kind == "quoted" else text


def write(line: Line, tokens: Iterable[Token], charset: Charset) -> None:
    """Tokens as they are, comments beyond ASCII downgraded (RFC 6857 section 3.1.3)."""
    for kind, text in tokens:
        if kind == "comment" and not text.isascii():
            write_comment(line, text, charset)
        else:
            line.plain(text)


def write_comment(line: Line, comment: str, charset: Charset) -> None:
    run = ""
    for part in _COMMENT.findall(comment):
        if part not in ("(", ")"):
            run += part
            continue
        if run.isascii():
            line.plain(run)
        else:
            words = (
                (space, word if word.isascii() else _QUOTED_PAIR.sub(r"\1", word)) for space, word in words_of(run)
            )
            write_words(line, words, charset)
            line.plain(_space_at_end(run))
        run = ""
        line.plain(part)


def write_phrase(line: Line, tokens: Sequence[Token], charset: Charset) -> None:
    """RFC 6857 sections 3.1.2 and 3.1.5: atoms and quoted strings; a word is what no white space cuts."""
    words: list[tuple[str, str]] = []
    space, written, content, is_ascii = "", "", "", True

    def end_word() -> None:
        nonlocal space, written, content, is_ascii
        if written:
            words.append((space, written if is_ascii else content))
            space, written, content, is_ascii = "", "", "", True

    for token in tokens:
        kind, text = token
        if kind == "space":
            end_word()
            space += text
        elif kind == "comment":
            end_word()
            write_words(line, words, charset)
            words = []
            line.plain(space)
            space = ""
            write(line, [token], charset)
        else:
            written += text
            content += content_of(token)
            is_ascii = is_ascii and text.isascii()
    end_word()
    write_words(line, words, charset)
    line.plain(space)


def separated(tokens: Sequence[Token], separator: str) -> list[Sequence[Token]]:
    parts: list[Sequence[Token]] = []
    start = 0
    for place, token in enumerate(tokens):
        if token == ("special", separator):
            parts.append(tokens[start:place])
            start = place + 1
    return [*parts, tokens[start:]]
