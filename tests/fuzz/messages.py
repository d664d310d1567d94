"""Targets: the header of a message and who it speaks for (RFC 5322), lines and bodies (RFC 5321, RFC 3030), reports."""

from __future__ import annotations

import email
import email.policy
from random import Random
from zlib import crc32

from mailsvc.mail.address import AddressError, parse_address
from mailsvc.mail.authors import AUTHORS as AUTHOR_FIELDS
from mailsvc.mail.authors import LONGEST_FIELD, AuthorsError, address_list, authors
from mailsvc.mail.dsn import Delivered, delivered_report
from mailsvc.mail.message import MessageScanner, fields_named, header_fields, summarise
from mailsvc.mail.wishes import envelope_id, original_recipient
from mailsvc.smtp.commands import CommandError, parse_bdat
from mailsvc.wire.lines import BareLineFeed, BodyEnd, BodyPiece, Line, LineReader, LineTooLong, stuffed
from tests.fuzz.commands import HOSTNAME, an_address, check_address, clean
from tests.fuzz.target import Target, cuts, pick, require, some

_LIMIT = 60


def _scanned(pieces: list[bytes]) -> tuple[int, int, int, int, bool, int]:
    scanner = MessageScanner(measure_lines=True)
    size = 0
    for piece in pieces:
        scanner.feed(piece)
        require(size <= scanner.size, "a message that shrinks")
        size = scanner.size
        require(0 <= scanner.header_size <= size, "a header longer than its message")
    scanner.close()
    bare, longest = scanner.has_bare_line_end, scanner.longest_line
    return scanner.size, scanner.header_size, scanner.fields, scanner.received_fields, bare, longest


def message_check(data: bytes) -> str:
    """`MessageScanner` in any cut, `summarise` and `header_fields` of the header that it found."""
    whole = _scanned([data])
    require(_scanned(cuts(data)) == whole, "a message that depends on its segments")
    if len(data) < 300:
        require(_scanned([data[place : place + 1] for place in range(len(data))]) == whole, "octet by octet")
    size, header_size, fields, received, bare, longest = whole
    require(size == len(data), "a size that is not the message's")
    header = data[:header_size]
    summary = summarise(header, size=size, sha256="")
    read = list(header_fields(header))
    columns = (summary.subject, summary.from_, summary.date, summary.message_id)
    if bare:
        return f"bare {fields > 0}"  # such a message is refused
    require(longest == max(len(line) for line in data.split(b"\r\n")), "the longest line is another one")
    require(len(read) == fields, f"{fields} fields counted, {len(read)} read")
    require(sum(name == b"received" for name, _ in read) == received, "another number of Received fields")
    for name, column in zip((b"subject", b"from", b"date", b"message-id"), columns, strict=True):
        first = next((value for found, value in read if found == name), None)
        require((first is None) == (column is None), f"{name!r} is there or not")
        if first is not None and column is not None:
            require(column == first.decode("utf-8", "replace")[:998], "a column that is not the first field's value")
            require("\r" not in column and "\n" not in column, "a line end in a column")
    complete = header.endswith(b"\r\n\r\n") or header == b"\r\n"
    require(complete or b"\r\n\r\n" not in header, "an empty line inside a header")
    return f"{complete} {min(fields, 5)} {min(received, 3)} {header_size < size} {[c is not None for c in columns]}"


def authors_check(data: bytes) -> str:
    """`authors`: each address that is found can be written, and a list of them is read as the same ones."""
    try:
        found = authors(data)
    except AuthorsError as error:
        clean(str(error), "an error")
        return str(error)[-40:]
    if not data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n"):
        return "bare line ends"  # the message is refused, whoever it is from
    named = [(name, value) for name, value in header_fields(data) if name in AUTHOR_FIELDS]
    require(list(fields_named(data, *AUTHOR_FIELDS)) == named, "fields by name are not the fields in turn")
    for address in found:
        check_address(address)
    for text in (", ".join(map(str, found)), ",".join(f'"x, <y>" <{each}>' for each in found)):
        require(address_list(text) == found, "a list that is read in another way when it is written")
    for name, value in named:
        require(len(value) <= LONGEST_FIELD, "a field that is too long")
        text = value.decode("utf-8")
        require(address_list(f"(c) {text} (c)") == address_list(text), "a comment that changes who speaks")
        require(authors(b"%b: %b\r\n" % (name, value)) == address_list(text), "a field that changes")
    return f"{min(len(found), 4)} {any(not each.is_ascii for each in found)} {data.count(b':') > 2} {b'(' in data}"


def _events(pieces: list[bytes]) -> list[tuple[str, bytes]]:
    """What a `LineReader` makes of a session; its lines say what kind of body follows, as in SMTP."""
    reader = LineReader(_LIMIT)
    events: list[tuple[str, bytes]] = []
    for piece in pieces:
        before = reader.pending
        reader.feed(piece)
        require(reader.pending == before + len(piece), "octets that are lost")
        while event := reader.next_event():
            match event:
                case Line(line):
                    require(b"\n" not in line and len(line) + 2 <= reader.line_limit, "a line that is none")
                    events.append(("line", line))
                    reader.line_limit = 4 * _LIMIT if line[:4] == b"AUTH" else _LIMIT
                    if line == b"DATA":
                        reader.read_dotted_body()
                    elif line[:5] == b"BDAT ":
                        _begin_chunk(reader, line[5:])
                case BodyPiece(octets):
                    require(octets != b"", "an empty piece")
                    if events[-1][0] == "body":
                        events[-1] = ("body", events[-1][1] + octets)
                    else:
                        events.append(("body", octets))
                case BodyEnd():
                    events.append(("end", b""))
                case LineTooLong():
                    events.append(("too long", b""))
                case BareLineFeed():
                    events.append(("bare", b""))
        require(reader.pending <= 4 * _LIMIT, "too much is held back")
    return events


def _begin_chunk(reader: LineReader, argument: bytes) -> None:
    try:
        reader.read_counted_body(parse_bdat(argument.decode("latin-1")).octets)
    except CommandError:
        return


def _dotted(data: bytes) -> tuple[bytes, bytes] | None:
    """Body and rest, by the book (RFC 5321 section 4.5.2), of what stands behind DATA; None when it does not end."""
    if data.startswith(b".\r\n"):
        return b"", data[3:]
    body, end, rest = data.partition(b"\r\n.\r\n")
    if not end:
        return None
    lines = [line[1:] if line.startswith(b".") else line for line in (body + b"\r\n").split(b"\r\n")]
    return b"\r\n".join(lines), rest


def lines_check(data: bytes) -> str:
    """`LineReader`: whole, cut anywhere, octet by octet; and bodies against a model that is too simple to be wrong."""
    whole = _events([data])
    require(_events(cuts(data)) == whole, "lines that depend on their segments")
    if len(data) < 200:
        require(_events([data[place : place + 1] for place in range(len(data))]) == whole, "octet by octet")
    model = _dotted(data)
    inside = _events([b"DATA\r\n" + data])
    if model is None:
        require(("end", b"") not in inside, "a body that ends where none ends")
    else:
        body, rest = model
        end = inside.index(("end", b""))
        require(b"".join(octets for kind, octets in inside[1:end] if kind == "body") == body, "another body")
        require(inside[end + 1 :] == _events([rest]), "what is behind a body is read in another way")
    sent = stuffed(data, True)
    require(_dotted(sent + b"\r\n.\r\n") == (_undotted(data), b""), "a body that cannot be read back")
    return f"{sorted({kind for kind, _ in whole})} {model is None}"


def _undotted(data: bytes) -> bytes:
    # A line that begins behind a bare LF gets a dot, too, which only CRLF readers keep; such bodies are refused.
    lines = data.split(b"\r\n")
    return b"\r\n".join(line.replace(b"\n.", b"\n..") for line in lines) + b"\r\n"


def report_check(data: bytes) -> str:
    """`delivered_report` of what passed the parsers: lines ENVID, ORCPT, recipient, sender; behind them a header."""
    parts = data.split(b"\n", 4)
    if len(parts) < 5:
        return "short"
    try:
        envid, orcpt, recipient, sender = (part.decode("utf-8").rstrip("\r") for part in parts[:4])
        notes = envelope_id(envid) if envid else None
        original = original_recipient(orcpt, utf8=True) if orcpt else None
        to, reached = parse_address(sender), parse_address(recipient)
    except (ValueError, AddressError) as error:
        return f"refused {type(error).__name__}"
    header = parts[4].replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n")
    scanner = MessageScanner()
    scanner.feed(header)
    scanner.close()
    header = header[: scanner.header_size]
    head, body = delivered_report(
        [Delivered(reached, original), Delivered(to, None)],
        to=to, hostname=HOSTNAME, trace_id="k7Zq", now=1.7e9, envelope_id=notes, header=header,
    )  # fmt: skip
    scanner = MessageScanner(measure_lines=True)
    scanner.feed(head + body)
    scanner.close()
    require(not scanner.has_bare_line_end, "a bare line end in a report")
    require(scanner.header_size == len(head) and scanner.fields in (8, 9), "another header than was written")
    opening = b"--k7Zq/mail.example.org\r\n"
    if opening in header:
        return "boundary"
    parts = body.split(opening)
    require(len(parts) == 4, "a report of another number of parts")
    status = parts[2].partition(b"\r\n\r\n")[2]
    blocks = status.split(b"\r\n\r\n")
    require(len(blocks) == 4 and blocks[3] == b"", "another number of blocks of fields")
    fields = dict(header_fields(blocks[0] + b"\r\n"))
    require(fields.get(b"original-envelope-id") == (None if notes is None else notes.strip(" ").encode()), "ENVID")
    fields = dict(header_fields(blocks[1] + b"\r\n"))
    final = f"{'rfc822' if reached.is_ascii else 'utf-8'}; {reached}"
    require(fields[b"final-recipient"] == final.encode(), "another recipient")
    if original is not None:
        kind, _, address = original.partition(";")
        require(fields[b"original-recipient"] == f"{kind}; {address}".strip(" ").encode(), "another ORCPT")
    require(fields[b"action"] == b"delivered" and len(fields) == 3 + (original is not None), "other fields")
    if crc32(data) % 50 == 0:
        _read_by_python(head + body)
    marks = (notes is None, (original or "").startswith("utf-8"), to.is_ascii, reached.is_ascii, header.isascii())
    return f"{marks}"


def _read_by_python(message: bytes) -> None:
    """Another program reads it as what it is."""
    read = email.message_from_bytes(message, policy=email.policy.compat32)
    require(read.get_content_type() == "multipart/report" and len(read.get_payload()) == 3, "no report to a program")
    require(not read.defects, f"defects: {read.defects}")


def _field(random: Random) -> bytes:
    name = pick(random, b"Subject", b"From", b"Date", b"Message-ID", b"Received", b"X", b"received ", b"SENDER", b"To")
    fold = pick(random, b"", b"", b"\r\n ", b"\r\n\t", b"\r\n  \r\n ")
    value = pick(random, b"x", b"", b"<a@example.org>", b"J\xc3\xb6rg", b"=?utf-8?q?a?=", b"from a by b; now", b"a:b")
    return name + b":" + pick(random, b" ", b"", fold) + value + fold + b"\r\n"


def _message(random: Random) -> bytes:
    body = some(
        random, lambda random: pick(random, b"x\r\n", b".\r\n", b"\r\n", b"a: b\r\n", b"x" * 70, b"\r\n.\r\n"), 5
    )
    return some(random, _field, 6) + pick(random, b"\r\n", b"\r\n", b"", b"no field\r\n", b" x\r\n") + body


def _mailbox(random: Random) -> bytes:
    address = an_address(random)
    name = pick(random, b"", b"J. Doe ", b'"a, <b>" ', b"(c (d)) ", b"J\xc3\xb6rg ", b"=?utf-8?q?a?= ", b"\r\n ")
    form = pick(random, b"%b", b"<%b>", b"<%b>", b"< %b >", b"<%b> (me)", b"<%b>\r\n\t", b"<@a.example:%b>")
    return name + form % address


def _author_header(random: Random) -> bytes:
    name = pick(random, b"From", b"From", b"from", b"Sender", b"Resent-From", b"Resent-Sender", b"FROM ", b"To")
    boxes = [_mailbox(random) for _ in range(int(random.random() * 4))]
    value = pick(random, b", ", b",", b",,", b" ").join(boxes)
    return name + b": " + (b"Team: %b;" % value if random.random() < 0.15 else value) + b"\r\n"


def _authors(random: Random) -> bytes:
    return _author_header(random) + some(random, _author_header, 2)


def _session(random: Random) -> bytes:
    def part(random: Random) -> bytes:
        return pick(
            random, b"NOOP\r\n", b"DATA\r\n", b"x\r\n", b".\r\n", b"..\r\n", b"\r\n.\r\n", b"\r\n", b"\n.\r\n",
            b"\r.\r\n",
            b"BDAT 5\r\nab\r\nc", b"BDAT 0 LAST\r\n", b"BDAT 30 LAST\r\n", b"\n", b"\r", b"y" * 58 + b"\r\n",
            b"z" * 59 + b"\r\n",
            b"AUTH\r\n" + b"w" * 100 + b"\r\n", b".", b"QUIT\r\n", b"\r\n.\n", b"\n.\n", b"\r\n.\r", b"\0",
        )  # fmt: skip

    return some(random, part, 12)


def _report(random: Random) -> bytes:
    envid = pick(random, b"", b"QQ314159", b"a+20b", b"+20", b"x+2B")
    orcpt = pick(random, b"", b"rfc822;bob@example.org", b"rfc822;+20x", b"utf-8;j\\x{F6}rg@example.org", b"x400;+2Fx")
    head = some(random, _field, 3) + pick(random, b"", b"\r\n")
    return b"\n".join((envid, orcpt, an_address(random), an_address(random), head))


_HEADER_TOKENS = (
    b"Subject:", b"\nFrom: ", b"\r\nReceived: ", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b"x" * 998, b"x" * 1001 + b":",
    b" :",
    b"\t\t:", b"a: b\r\n", b"\n ", b"\n\t", b"date:", b"message-id:", b"\xc3", b"From\t: ", b"\x80:",
)  # fmt: skip

_AUTHOR_TOKENS = (
    b"From: ", b"Sender: ", b"Resent-From: ", b"<me@example.org>", b"a@b.example", b"(", b")", b"\\(", b'"', b'\\"',
    b"<", b">",
    b",", b";", b"Team: ", b"@a,@b:", b"\r\n ", b"\r\nFrom: ", b"[192.0.2.1]", b"[", b"]", b"=?utf-8?q?=40?=",
    b"\xc3\xa9",
    b"\xe2\x80\xae", b"((((", b"))))", b"<<", b"\xef\xbc\xa0",
)  # fmt: skip

MESSAGE = Target("message", message_check, _message, _HEADER_TOKENS)
AUTHORS = Target("authors", authors_check, _authors, _AUTHOR_TOKENS)
LINES = Target(
    "lines", lines_check, _session, (b"DATA\r\n", b"\r\n.\r\n", b".\r\n", b"..", b"BDAT 7\r\n", b"AUTH\r\n",
    b"BDAT 0\r\n", b"\n.\n")
)  # fmt: skip
REPORT = Target(
    "report", report_check, _report, (b"+0D", b"+0A", b"rfc822;", b"utf-8;", b"\\x{A}", b"+20", *_HEADER_TOKENS)
)
