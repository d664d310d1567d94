"""The rules of a POP3 session, and the maildrop as one session sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.snapshot import MaildropItem, Snapshot
from mailsvc.pop3.maildrop import Maildrop, NoSuchMessage
from mailsvc.pop3.session import VERBS, Offer, State, capabilities, parse_command, refusal
from mailsvc.pop3.texts import Refusal

BEFORE, AFTER = State

# Whether a command may run: in clear, inside TLS before login, after login.
TABLE = """
CAPA  yes  yes  yes
STLS  yes  no   no
QUIT  yes  yes  yes
USER  no   yes  no
PASS  no   yes  no
STAT  no   no   yes
LIST  no   no   yes
UIDL  no   no   yes
RETR  no   no   yes
TOP   no   no   yes
DELE  no   no   yes
RSET  no   no   yes
NOOP  no   no   yes
APOP  no   no   no
AUTH  no   yes  no
LANG  no   yes  yes
UTF8  no   yes  no
XTND  no   no   no
"""


class CommandTests(SynchronousTestCase):
    """Which command may run when (RFC 1939, RFC 2595)."""

    def test_states(self) -> None:
        """The table above; it names every command that exists."""
        named = set()
        for line in TABLE.strip().splitlines():
            verb, *cells = line.split()
            named.add(verb)
            arguments = VERBS[verb].least if verb in VERBS else 0
            for cell, (state, secured) in zip(cells, ((BEFORE, False), (BEFORE, True), (AFTER, True)), strict=True):
                refused = refusal(verb, arguments, state, secured=secured)
                self.assertEqual("yes" if refused is None else "no", cell, (verb, state, secured))
        self.assertLess(set(VERBS), named)

    def test_arguments(self) -> None:
        """The number of arguments counts in the right state, and the text says how many there should be."""
        for verb, expected in VERBS.items():
            state = AFTER if AFTER in expected.states else BEFORE
            secured = verb != "STLS"
            for number in range(5):
                refused = refusal(verb, number, state, secured=secured)
                fits = expected.least <= number <= expected.most
                self.assertEqual(refused is None, fits, (verb, number))
                self.assertTrue(refused is None or "argument" in refused.line())

    def test_before_tls(self) -> None:
        """In clear every command but CAPA, STLS and QUIT points to STLS, whatever its arguments."""
        for verb, number in product(VERBS, range(3)):
            if verb not in ("CAPA", "STLS", "QUIT"):
                refused = refusal(verb, number, BEFORE, secured=False)
                self.assertEqual(refused and refused.line(), "-ERR issue STLS first")

    def test_parse(self) -> None:
        """Verbs in any case; the argument of USER and PASS is the rest of the line, spaces and all."""
        for line, expected in (
            (b"quit", ("QUIT", [])),
            (b"QUIT ", ("QUIT", [])),
            (b"TOP 1  20 ", ("TOP", [b"1", b"20"])),
            (b"PASS two words ", ("PASS", [b"two words "])),
            (b"PASS  leading", ("PASS", [b" leading"])),
            (b"PASS ", ("PASS", [])),
            (b"PASS", ("PASS", [])),
            (b"USER \xff\0", ("USER", [b"\xff\0"])),
            (b"RETR 1\t2", ("RETR", [b"1", b"2"])),
        ):
            self.assertEqual(parse_command(line), expected, line)

    def test_malformed(self) -> None:
        """No name, no command."""
        for line in (b"", b" ", b" QUIT", b"1", b"QUIT\t", b"8UTF", b"\xffQUIT", b"QU\0IT", b"A" * 41, b"QUIT\r"):
            self.assertRaises(Refusal, parse_command, line)

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_any_line(self, line: bytes) -> None:
        """Any octets are a verb and arguments, or `Refusal`."""
        try:
            verb, arguments = parse_command(line)
        except Refusal:
            return
        self.assertTrue(verb.isupper() and verb.isascii())
        refusal(verb, len(arguments), BEFORE, secured=True)


class CapabilityTests(SynchronousTestCase):
    """CAPA is true in every state (RFC 2449 section 5)."""

    def test_lines(self) -> None:
        """STLS before TLS only; USER, SASL, UTF8 and LANG inside TLS only; the others always.

        Rule: POP3: CAPA names what can be used
        """
        always = {"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION mailsvc"}
        inside = {"USER", "UTF8 USER", "LANG"}
        self.assertEqual(set(capabilities(Offer(), secured=False)), always | {"STLS"})
        self.assertEqual(set(capabilities(Offer(), secured=True)), always | inside)
        offer = Offer(("PLAIN", "LOGIN"), expire="30 USER", login_delay=60, implementation="")
        always = always - {"EXPIRE NEVER", "IMPLEMENTATION mailsvc"} | {"EXPIRE 30 USER", "LOGIN-DELAY 60"}
        self.assertEqual(set(capabilities(offer, secured=False)), always | {"STLS"})
        self.assertEqual(set(capabilities(offer, secured=True)), always | inside | {"SASL PLAIN LOGIN"})

    def test_each_is_a_command(self) -> None:
        """What CAPA names and what can be used on the same connection agree."""
        tags = {line.split()[0] for line in capabilities(Offer(("PLAIN",)), secured=True)}
        for tag, verb in {
            "TOP": "TOP",
            "UIDL": "UIDL",
            "USER": "USER",
            "SASL": "AUTH",
            "UTF8": "UTF8",
            "LANG": "LANG",
        }.items():
            usable = any(refusal(verb, VERBS[verb].least, state, secured=True) is None for state in State)
            self.assertEqual((tag in tags, usable), (True, True), tag)


@dataclass
class Model:
    """A maildrop in the simplest way."""

    items: list[MaildropItem]
    deleted: list[bool] = field(default_factory=list)

    def left(self) -> list[tuple[int, MaildropItem]]:
        return [(n, item) for n, item in enumerate(self.items, 1) if not self.deleted[n - 1]]


class MaildropMachine(RuleBasedStateMachine):
    """The maildrop and its model do the same."""

    @initialize(sizes=st.lists(st.integers(0, 10**6), max_size=6))
    def begin(self, sizes: list[int]) -> None:
        items = [MaildropItem(uid * 3, 100 + uid, size, f"{uid}.x") for uid, size in enumerate(sizes, 1)]
        self.model = Model(items, [False] * len(items))
        self.maildrop = Maildrop(Snapshot.of(items))

    @rule(
        argument=st.sampled_from(
            [b"0", b"1", b"2", b"3", b"6", b"7", b"002", b"9" * 10, b"9" * 11, b"-1", b"+1", b"", b"x"]
        )
    )
    def delete(self, argument: bytes) -> None:
        exists = argument.isdigit() and len(argument) <= 10 and 1 <= int(argument) <= len(self.model.items)
        try:
            number = self.maildrop.number(argument)
        except NoSuchMessage as error:
            assert not exists or self.model.deleted[int(argument) - 1], argument
            assert str(error).isascii()
            return
        assert exists and number == int(argument) and not self.model.deleted[number - 1]
        assert self.maildrop.item(number) == self.model.items[number - 1]
        self.maildrop.delete(number)
        self.model.deleted[number - 1] = True

    @rule()
    def reset(self) -> None:
        self.maildrop.reset()
        self.model.deleted = [False] * len(self.model.items)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "maildrop"):
            return
        left = self.model.left()
        assert "".join(self.maildrop.sizes()) == "".join(f"{number} {item.size}\r\n" for number, item in left)
        assert "".join(self.maildrop.uidls()) == "".join(f"{number} {item.uidl}\r\n" for number, item in left)
        assert self.maildrop.count == len(left)
        assert self.maildrop.octets == sum(item.size for _, item in left)
        gone = [item.uid for item, deleted in zip(self.model.items, self.model.deleted, strict=True) if deleted]
        assert [self.maildrop.uid(number) for number in self.maildrop.marked] == gone


class MaildropTests(SynchronousTestCase):
    """RFC 1939 sections 5 to 7."""

    def test_against_a_model(self) -> None:
        """However messages are deleted and reset: numbers stay, and count, sizes and listing are those of the rest."""
        run_state_machine_as_test(
            MaildropMachine, settings=settings(deadline=None, max_examples=60, stateful_step_count=20)
        )

    def test_numbers(self) -> None:
        """Only digits make a number (Python's int takes more), and 0 is none: the stock class counts from the end."""
        maildrop = Maildrop(Snapshot.of([MaildropItem(1, 1, 10, "a"), MaildropItem(2, 2, 20, "b")]))
        self.assertEqual(maildrop.number(b"2"), 2)
        for argument in (b"0", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"\xd9\xa1", b"1.0", b"3", b"", b"1\n"):
            self.assertRaises(NoSuchMessage, maildrop.number, argument)
