r"""Mail dialogues as files that a postmaster can read, and the runner that holds both servers to them.

A file of ``tests/dialogues`` has comments (``#``), settings, an empty line, and then the dialogue::

    listener: submission          # mx, mx with tls = optional, submission, submissions, pop3, pop3s
    limit: recipients 2           # a field of the listener's rules, or of BodyLimits
    login_delay: 60               # of POP3, in seconds
    sessions: 2                   # of POP3, of one account at a time
    user: carol@example.org word  # besides alice@ and bob@example.org, whose password is "open sesame"
    message: alice@example.org Subject: x\r\n\r\nbody\r\n
    alias: team@example.org alice@example.org bob@example.org
    program: sorter@example.org /bin/sorter 67 no such list    # an alias with a program: its exit status and output
    rule: catch_all alice@example.org                          # of example.org: a field of DomainRules
    backup: example.net carol dora                             # we are its backup MX, and these are its recipients
    quota: alice@example.org 900  # octets
    disabled: bob@example.org
    segments: whole               # the dialogue is about segments: do not cut it

    S: 220 mail.example.org ESMTP
    C: EHLO client.example.net

``C:`` is a line that the client sends, with CRLF; lines that follow each other leave in one segment.  ``C-`` is the
same without CRLF.  ``S:`` is the next line of the server, to the letter; ``*`` stands for one word that may be
anything (an id).  Nothing else may have come when the client speaks again.  In both ``\r \n \t \0 \xNN \\`` are
octets, and ``{x*300}`` is 300 times x, ``{base64 text}`` the base64 of text, ``{utf8 text}`` text in UTF-8.  Further
lines::

    C<TLS>                        the client makes its handshake
    C<gone>                       the client's connection is lost
    S<closed>                     the server has closed the connection (inside TLS: with a close_notify)
    S<cut>                        the server has cut the connection
    T: 300                        so many seconds pass
    M: alice@example.org 2        so many messages are in the maildrop now
    D: the disk is full           the database fails from here on ("D: works": no longer)
    C2<connect>  C2: ...  S2: ... a second connection (to ``listener 2: ...``, or the same kind)

Each file is run as it stands, with a database that answers late, and octet by octet: the replies must be the same.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mailsvc.backup.listing import list_in_clear
from mailsvc.directory.program import Ended
from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.pop3.admission import Admission
from mailsvc.smtp.modes import lmtp
from mailsvc.smtp.reception import BodyLimits
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.backups import NewBackup, Source, add_backup, put_list
from mailsvc.storage.rules import domain_rules, set_disabled, set_domain_rules, set_quota
from tests.memory import MODES, Client, Cut, MailCase, MailHost, byte_by_byte, storage_failure, whole

FOLDER = Path(__file__).resolve().parent / "dialogues"

_STEP = re.compile(r"([CSTMD])(\d?)(?:(:|-)(?: (.*))?|<(\w+)>)\Z")
_MODES = MODES | {"lmtp": lmtp(requires_tls=False)}
_ADMISSION = (("login_delay", "0"), ("sessions", "10"))
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|(.))")
_TIMES = re.compile(r"\{(.)\*(\d+)\}")
_BASE64 = re.compile(r"\{base64 ([^}]*)\}")
_UTF8 = re.compile(r"\{utf8 ([^}]*)\}")
_OCTETS = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


@dataclass
class Step:
    """One line of a dialogue; ``verb`` is what stands in angle brackets."""

    number: int
    who: str
    session: str
    mark: str
    text: str
    verb: str


@dataclass
class Dialogue:
    """A file."""

    name: str
    settings: list[tuple[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        return [value for setting, value in self.settings if setting == name]


def parse(path: Path) -> Dialogue:
    """Read a file; ValueError names the line that is not understood."""
    dialogue = Dialogue(path.stem)
    in_settings = True
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            in_settings = in_settings and not dialogue.settings
        elif in_settings:
            name, colon, value = line.partition(": ")
            if not colon:
                raise ValueError(f"{path.name}, line {number}: a setting has the form name: value")
            dialogue.settings.append((name, value))
        else:
            step = _STEP.match(line)
            if step is None:
                raise ValueError(f"{path.name}, line {number} is not understood: {line}")
            who, session, mark, text, verb = (part or "" for part in step.groups())
            dialogue.steps.append(Step(number, who, session, mark, text, verb))
    return dialogue


def octets(text: str) -> bytes:
    """What a line of a dialogue stands for."""

    def encode(match: re.Match[str]) -> str:
        return base64.b64encode(_ESCAPE.sub(escape, match[1]).encode("latin-1")).decode("ascii")

    def escape(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _OCTETS[match[2]]

    text = _UTF8.sub(lambda match: match[1].encode("utf-8").decode("latin-1"), text)
    text = _TIMES.sub(lambda match: match[1] * int(match[2]), text)
    return _ESCAPE.sub(escape, _BASE64.sub(encode, text)).encode("latin-1")


def _set_up_directory(host: MailHost, dialogue: Dialogue) -> None:
    """Who gets mail: what the settings of that name say."""
    for value in dialogue.values("alias"):
        alias, *targets = (parse_address(word) for word in value.split())
        host.store.now(add_alias, alias, targets, 0.0)
    for value in dialogue.values("program"):
        name, path, status, output = value.split(" ", 3)
        host.programs.ends[path] = Ended(int(status), octets(output))
        host.store.now(add_alias, parse_address(name), [Program((path,))], 0.0)
    for value in dialogue.values("rule"):
        rule, text = value.split()
        rules = host.store.now(domain_rules, "example.org")
        assert rules is not None
        changed: dict[str, Any] = {rule: parse_address(text) if "@" in text else text}
        host.store.now(set_domain_rules, replace(rules, **changed))
    for value in dialogue.values("backup"):
        domain, *names = value.split()
        host.store.now(add_backup, NewBackup(domain, Source.TABLE, 30 * 86400.0), 0.0)
        known = list_in_clear(domain, names, separator="+", catch_all=False)
        host.store.now(put_list, domain, known, "", 0.0)
    for value in dialogue.values("quota"):
        address, number = value.split()
        host.store.now(set_quota, address, int(number))
    for address in dialogue.values("disabled"):
        host.store.now(set_disabled, address, True)


def _matches(pattern: bytes, line: bytes) -> bool:
    expression = rb"\S+".join(re.escape(part) for part in pattern.split(b"*"))
    return re.fullmatch(expression, line) is not None


class Runner:
    """Runs one dialogue on one host."""

    def __init__(self, case: DialogueCase, dialogue: Dialogue, host: MailHost) -> None:
        self._case = case
        self._dialogue = dialogue
        self._host = host
        self._clients: dict[str, Client] = {}
        self._lines: dict[str, bytes] = {}
        for value in dialogue.values("user"):
            host.add_user(*value.split(" ", 1))
        _set_up_directory(host, dialogue)
        delay, sessions = (int((dialogue.values(name) or [usual])[0]) for name, usual in _ADMISSION)
        host.readers = replace(host.readers, admission=Admission(delay, sessions))
        for value in dialogue.values("message"):
            address, _, text = value.partition(" ")
            host.put_message(octets(text), address)

    def run(self) -> None:
        self._connect("")
        said: dict[str, bytes] = {}
        for step in self._dialogue.steps:
            if step.who == "C" and step.mark:
                end = b"\r\n" if step.mark == ":" else b""
                said[step.session] = said.get(step.session, b"") + octets(step.text) + end
                continue
            self._say(said, step)
            self._do(step)
        self._say(said, None)
        for session in self._clients:
            self._nothing_left(session, None)

    def _say(self, said: dict[str, bytes], step: Step | None) -> None:
        for session, text in said.items():
            self._nothing_left(session, step)
            self._clients[session].send(text)
        said.clear()

    def _do(self, step: Step) -> None:
        match step.who, step.verb:
            case "C", "connect":
                self._connect(step.session)
            case "C", "TLS":
                self._nothing_left(step.session, step)
                self._clients[step.session].handshake()
            case "C", "gone":
                self._clients[step.session].hang_up()
            case "S", ("closed" | "cut") as how:
                self._closed(step, cut=how == "cut")
            case "S", "":
                self._expect(step)
            case "T", "":
                for client in self._clients.values():
                    client.wait(float(step.text))
                    break
            case "M", "":
                address, number = step.text.split()
                self._case.assertEqual(len(self._host.mail_of(address)), int(number), self._where(step))
            case "D", "":
                self._host.store.failure = None if step.text == "works" else storage_failure()
            case _:
                raise ValueError(f"{self._where(step)}: not understood")

    def _connect(self, session: str) -> None:
        kind = (self._dialogue.values(f"listener {session}") or self._dialogue.values("listener"))[0]
        rules: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for value in self._dialogue.values("limit"):
            name, _, said = value.partition(" ")
            rule = int(said) if said.isdigit() else said
            (limits if name in BodyLimits.__dataclass_fields__ else rules)[name] = rule
        if kind in _MODES:
            rules["body"] = replace(self._host.body, **limits)
            client = self._host.smtp(_MODES[kind], **rules)
        elif kind in ("pop3", "pop3s"):
            client = self._host.pop3(implicit_tls=kind == "pop3s", **rules)
        else:
            raise ValueError(f"{self._dialogue.name}: there is no listener {kind}")
        self._clients[session] = client
        self._lines[session] = b""

    def _received(self, session: str) -> bytes:
        self._lines[session] += self._clients[session].take()
        return self._lines[session]

    def _expect(self, step: Step) -> None:
        line, end, rest = self._received(step.session).partition(b"\r\n")
        self._case.assertTrue(end, f"{self._where(step)}: expected {step.text!r}, got {line!r}")
        self._lines[step.session] = rest
        if not _matches(octets(step.text), line):
            self._case.fail(
                f"{self._where(step)}:\nexpected {octets(step.text)!r}\ngot      {line!r}\nthen     {rest!r}"
            )

    def _closed(self, step: Step, *, cut: bool) -> None:
        self._nothing_left(step.session, step)
        client = self._clients[step.session]
        if client.tls is not None and not cut:
            self._case.assertTrue(client.saw_close_notify, f"{self._where(step)}: no close_notify")
            client.close_tls()
        self._case.assertTrue(client.is_closed, f"{self._where(step)}: the connection is open")
        self._case.assertEqual(client.wire.aborted, cut, f"{self._where(step)}: by force?")

    def _nothing_left(self, session: str, step: Step | None) -> None:
        rest = self._received(session)
        self._case.assertEqual(rest, b"", f"{self._where(step)}: the server said more")

    def _where(self, step: Step | None) -> str:
        return f"{self._dialogue.name}, " + ("at the end" if step is None else f"line {step.number}")


class DialogueCase(MailCase):
    """A test method for each file of a folder; `add_dialogues` makes them."""

    def hold(self, dialogue: Dialogue) -> None:
        """Run a dialogue in every way."""
        ways: list[tuple[Cut, bool]] = [(whole, False), (whole, True)]
        if "whole" not in dialogue.values("segments"):
            ways += [(byte_by_byte, True)]
        for cut, late in ways:
            Runner(self, dialogue, self.host(cut=cut, late=late)).run()


def dialogues(folder: str) -> Iterator[Dialogue]:
    """The dialogues of a folder of ``tests/dialogues``."""
    return (parse(path) for path in sorted((FOLDER / folder).glob("*.txt")))


def add_dialogues(case: type[DialogueCase], folder: str) -> None:
    """Give ``case`` a test method for each file of ``folder``."""
    for dialogue in dialogues(folder):

        def method(self: DialogueCase, dialogue: Dialogue = dialogue) -> None:
            self.hold(dialogue)

        method.__name__ = f"test_{dialogue.name}"
        method.__qualname__ = f"{case.__qualname__}.{method.__name__}"
        method.__doc__ = f"The dialogue {folder}/{dialogue.name}.txt."
        setattr(case, method.__name__, method)
