"""RFC 1939 as a model of a few dozen lines, and random sequences of commands that are played against it and a server.

`Model` is written from the RFC alone, section by section, with lists and sets and nothing clever; it knows nothing of
our classes.  `play` makes up a sequence from a seed (sessions, lost connections, deliveries in between, commands in one
segment or in several), sends it to a real session in memory, and compares what every single reply says: not its words,
which are free (section 3), but its status, its numbers, its lines and its octets.

The handshake is left out on purpose: it costs a hundred times what all the rest does, and has tests of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.memory import ALICE, BOB, HOSTNAME, PASSWORD, Client, MailHost, cut_at

MULTI_LINE = ("CAPA", "LIST", "UIDL", "RETR", "TOP")
"""Commands whose +OK may be followed by lines up to a lone dot (section 3; CAPA is of RFC 2449 section 5)."""


@dataclass(frozen=True)
class Message:
    """A message in the store: its unique-id and its octets."""

    uidl: bytes
    octets: bytes


@dataclass
class Expected:
    """What a reply must say: its status, the words behind +OK that the RFC gives a meaning, and its lines."""

    ok: bool
    words: tuple[bytes, ...] | None = None
    lines: bytes | None = None
    closes: bool = False


OK = Expected(True)
ERR = Expected(False)


@dataclass
class Model:
    """A maildrop and one session at a time."""

    store: list[Message] = field(default_factory=list)
    drop: list[Message] | None = None
    marked: set[int] = field(default_factory=set)
    name: bytes | None = None

    def connect(self) -> None:
        """Section 3: a session begins in the AUTHORIZATION state."""
        self.drop, self.marked, self.name = None, set(), None

    def lose(self) -> None:
        """Section 6: a session that ends without QUIT removes nothing."""
        self.connect()

    def answer(self, verb: str, arguments: list[bytes]) -> Expected:
        """What the RFC wants in reply."""
        if verb == "QUIT":
            return self.quit(arguments)
        if verb == "CAPA":
            return Expected(True) if not arguments else ERR
        if self.drop is None:
            return self.before_login(verb, arguments)
        return self.logged_in(verb, arguments)

    def quit(self, arguments: list[bytes]) -> Expected:
        """Sections 4 and 6: the UPDATE state is entered from the TRANSACTION state only."""
        if arguments:
            return ERR
        if self.drop is not None:
            gone = {self.drop[number - 1].uidl for number in self.marked}
            self.store = [message for message in self.store if message.uidl not in gone]
        self.connect()
        return Expected(True, closes=True)

    def before_login(self, verb: str, arguments: list[bytes]) -> Expected:
        """Sections 4 and 7 (USER and PASS)."""
        if verb == "USER":
            if not arguments:
                return ERR
            self.name = b" ".join(arguments)
            return OK
        if verb == "PASS":
            # "The PASS command ... only ... immediately after a successful USER command": a login needs both anew.
            if not arguments:
                return ERR
            name, self.name = self.name, None
            if name != ALICE.encode() or b" ".join(arguments) != PASSWORD.encode():
                return ERR
            self.drop = list(self.store)
            return OK
        return ERR

    def logged_in(self, verb: str, arguments: list[bytes]) -> Expected:
        """Section 5, and TOP and UIDL of section 7."""
        assert self.drop is not None
        left = [number for number in range(1, len(self.drop) + 1) if number not in self.marked]
        if verb in ("STAT", "RSET", "NOOP"):
            if arguments:
                return ERR
            if verb == "RSET":
                self.marked.clear()
            if verb != "STAT":
                return OK
            return Expected(True, self.numbers(len(left), sum(len(self.drop[number - 1].octets) for number in left)))
        if verb in ("LIST", "UIDL") and not arguments:
            told = {"LIST": lambda each: b"%d" % len(each.octets), "UIDL": lambda each: each.uidl}[verb]
            lines = b"".join(b"%d %s\r\n" % (number, told(self.drop[number - 1])) for number in left)
            return Expected(True, lines=lines)
        if verb not in ("LIST", "UIDL", "RETR", "DELE", "TOP") or len(arguments) != (2 if verb == "TOP" else 1):
            return ERR
        if not arguments[0].isdigit() or int(arguments[0]) not in left:
            return ERR
        number = int(arguments[0])
        message = self.drop[number - 1]
        if verb == "LIST":
            return Expected(True, self.numbers(number, len(message.octets)))
        if verb == "UIDL":
            return Expected(True, (b"%d" % number, message.uidl))
        if verb == "DELE":
            self.marked.add(number)
            return OK
        if verb == "RETR":
            return Expected(True, lines=message.octets)
        if not arguments[1].isdigit():
            return ERR
        header, empty, body = message.octets.partition(b"\r\n\r\n")
        return Expected(True, lines=header + empty + b"".join(body.splitlines(keepends=True)[: int(arguments[1])]))

    @staticmethod
    def numbers(*numbers: int) -> tuple[bytes, ...]:
        """As they stand in a reply."""
        return tuple(b"%d" % number for number in numbers)


class Replies:
    """What a session has said, reply by reply."""

    def __init__(self, octets: bytes) -> None:
        self.rest = octets

    def line(self) -> bytes:
        """The next line, without its end."""
        line, end, self.rest = self.rest.partition(b"\r\n")
        assert end, f"a reply without its end: {line!r}"
        return line

    def lines(self) -> bytes:
        """The lines up to a lone dot, unstuffed (section 3)."""
        lines = []
        while (line := self.line()) != b".":
            lines.append(line.removeprefix(b".") + b"\r\n")
        return b"".join(lines)


class Play:
    """One host for many sequences: each begins with an empty maildrop."""

    def __init__(self) -> None:
        self.host = MailHost()
        self._factory = self.host.pop3_factory(implicit_tls=True, errors=10**6)
        self._account = self.host.account_id(ALICE)
        self.commands = 0
        self.make_model: type[Model] = Model

    def sequence(self, seed: int) -> None:
        """Play the sequence of this seed.  Raises AssertionError with its transcript."""
        random = Random(seed)
        self._empty()
        model = self.make_model()
        transcript: list[bytes] = [b"seed %d" % seed]
        for _ in range(random.randrange(5)):
            self._deliver(model, random)
        client = self._connect(model)
        try:
            for _ in range(random.randrange(1, 9)):
                client = self._turn(model, client, random, transcript)
            if not client.is_closed:
                client.hang_up()
            model.lose()
            kept = [row[0].encode() for row in self._rows()]
            assert kept == [message.uidl for message in model.store], f"the store has {kept}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(map(repr, transcript))) from None

    def _turn(self, model: Model, client: Client, random: Random, transcript: list[bytes]) -> Client:
        """Something happens: mail arrives, the connection is lost, or a few commands come in some segments."""
        happens = random.randrange(12)
        if happens == 0:
            transcript.append(b"(a message arrives)")
            self._deliver(model, random)
            return client
        if happens == 1:
            transcript.append(b"(the connection is lost)")
            if not client.is_closed:
                client.hang_up()
            model.lose()
            return self._connect(model)
        if client.is_closed:
            client = self._connect(model)
        commands: list[tuple[bytes, str, Expected]] = []
        for _ in range(random.randrange(1, 8)):
            commands.append(self._command(model, random, transcript))
            if commands[-1][2].closes:
                break
        text = b"".join(line for line, _, _ in commands)
        if commands[-1][2].closes and random.randrange(2):
            # What is pipelined behind QUIT is neither done nor answered.
            text += b"NOOP\r\nDELE 1\r\n"
        for segment in cut_at(text, [random.randrange(len(text)) for _ in range(random.randrange(4))]):
            client.put(segment)
        client.settle()
        replies = Replies(client.take())
        for line, verb, expected in commands:
            self.commands += 1
            self._compare(replies, line, verb, expected)
        assert replies.rest == b"", f"more was said than asked for: {replies.rest!r}"
        assert client.is_closed == commands[-1][2].closes
        return client

    def _command(self, model: Model, random: Random, transcript: list[bytes]) -> tuple[bytes, str, Expected]:
        """A command line, its verb, and what must be said to it."""
        verb, arguments = _random_command(model, random)
        line = b" ".join([random.choice((verb, verb.lower())).encode(), *arguments]) + b"\r\n"
        transcript.append(line)
        return line, verb, model.answer(verb, arguments)

    @staticmethod
    def _compare(replies: Replies, line: bytes, verb: str, expected: Expected) -> None:
        status, _, rest = replies.line().partition(b" ")
        assert status == (b"+OK" if expected.ok else b"-ERR"), f"{line!r} was answered {status!r} {rest!r}"
        if expected.words is not None:
            assert tuple(rest.split(b" ")[: len(expected.words)]) == expected.words, f"{line!r} was answered {rest!r}"
        if expected.lines is not None:
            said = replies.lines()
            assert said == expected.lines, f"{line!r} was answered {said!r}, not {expected.lines!r}"
        elif expected.ok and verb in ("CAPA",):
            replies.lines()

    def _connect(self, model: Model) -> Client:
        model.connect()
        client = self.host.connect(self._factory)
        # The end of a handshake that did not take place.
        protocol = client.wire.protocol
        protocol.handshakeCompleted()  # type: ignore[attr-defined]
        client.settle()
        greeting = client.take()
        assert greeting.startswith(b"+OK " + HOSTNAME.encode()), greeting
        del self.host.clients[:-1]
        return client

    def _deliver(self, model: Model, random: Random) -> None:
        octets = _random_message(random)
        self.host.put_message(octets, *random.choice([(ALICE,), (ALICE, BOB)]))
        model.store.append(Message(self._rows()[-1][0].encode(), octets))

    def _rows(self) -> list[tuple[str]]:
        question = "SELECT uidl FROM mailbox_item WHERE account_id = ? ORDER BY uid"
        return self.host.store.connection.execute(question, (self._account,)).fetchall()

    def _empty(self) -> None:
        for table in ("mailbox_item", "deleted_item", "message"):
            self.host.store.connection.execute(f"DELETE FROM {table}")


def _random_command(model: Model, random: Random) -> tuple[str, list[bytes]]:
    """A verb and its arguments: mostly what makes sense, sometimes anything."""
    if model.drop is None and random.randrange(3):
        if model.name == ALICE.encode() and random.randrange(8):
            return "PASS", [random.choice((PASSWORD.encode(), PASSWORD.encode(), PASSWORD.encode(), b"wrong"))]
        return "USER", [random.choice((ALICE.encode(), ALICE.encode(), BOB.encode(), b"nobody here"))]
    verb = random.choice(
        ("STAT", "LIST", "LIST", "UIDL", "UIDL", "RETR", "RETR", "TOP", "DELE", "DELE", "DELE", "RSET", "NOOP", "CAPA")
        + (("QUIT", "USER", "PASS", "APOP", "XTND", "FROBNICATE") if random.randrange(3) == 0 else ())
    )
    count = len(model.drop) if model.drop is not None else 2

    def number() -> bytes:
        usual = b"%d" % random.randrange(1, count + 2)
        return random.choice((usual, usual, usual, usual, usual, b"0", b"-1", b"x", b"4294967296", b"1x"))

    if random.randrange(12) == 0:
        return verb, [number() for _ in range(random.randrange(4))]
    if verb in ("RETR", "DELE") or (verb in ("LIST", "UIDL") and random.randrange(2)):
        return verb, [number()]
    if verb == "TOP":
        return verb, [number(), random.choice((b"0", b"1", b"2", b"100", b"-1"))]
    if verb in ("USER", "PASS"):
        return verb, [b"x"]
    return verb, []


def _random_message(random: Random) -> bytes:
    """A message that tests dots and ends of lines."""
    fields = [b"Subject: %d\r\n" % random.randrange(10**6)] + [b"X: y\r\n"] * random.randrange(3)
    line = (b"text\r\n", b".\r\n", b"..\r\n", b".x\r\n", b"\r\n", b"a line that is longer.\r\n")
    return b"".join(fields) + b"\r\n" + b"".join(random.choice(line) for _ in range(random.randrange(8)))
