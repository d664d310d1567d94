"""Targets: addresses, command lines, and the parameters of MAIL and RCPT (RFC 5321 section 4.1, RFC 3461, RFC 4865)."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

from mailsvc.mail.address import Address, AddressError, parse_address, parse_domain
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.message import MessageScanner
from mailsvc.mail.reply import Reply
from mailsvc.mail.wishes import Wish
from mailsvc.smtp.commands import (
    CommandError,
    Mail,
    parse_bdat,
    parse_command,
    parse_helo,
    parse_mail,
    parse_rcpt,
)
from mailsvc.smtp.extensions import EXTENSIONS
from mailsvc.smtp.modes import SUBMISSION
from mailsvc.smtp.session import Phase, Session, refusal
from mailsvc.smtp.trace import delivery_header, trace_header
from tests.fuzz.target import Target, pick, require, some

_EPOCH = datetime(1970, 1, 1)
_LAST = 253_402_300_799.0
_FIRST = -62_135_596_800.0
"""The years 1 to 9999: what lies beyond, by a zone, cannot be written in UTC."""

HOSTNAME = "mail.example.org"
SIZE_LIMIT = 67_108_864
MAIL_PARAMETERS = frozenset(name for extension in EXTENSIONS for name in extension.mail)
RCPT_PARAMETERS = frozenset(name for extension in EXTENSIONS for name in extension.rcpt)
_SESSIONS = [
    Session(SUBMISSION, phase, secured, "client.example.net", True) for phase in Phase for secured in (False, True)
]


def clean(text: str, what: str) -> None:
    """No control character, no line end of any alphabet, nothing that cannot be written in UTF-8."""
    require(not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text), f"a control in {what}")
    require("\u2028" not in text and "\u2029" not in text, f"a line separator in {what}")
    text.encode("utf-8")


def check_reply(reply: Reply) -> str:
    """A reply is lines of printable ASCII, none too long, however strange what it speaks of."""
    octets = reply.encode()
    require(octets.endswith(b"\r\n") and octets.count(b"\r\n") == len(reply.lines), "a reply with other lines")
    for line in octets[:-2].split(b"\r\n"):
        require(len(line) <= 510 and line.isascii() and line.decode().isprintable(), "a reply line that is none")
    return f"{reply.code} {reply.enhanced}"


def check_address(address: Address) -> None:
    """What is accepted can be written back, and is the same address then."""
    text = str(address)
    clean(text, "an address")
    require(len(text.encode()) <= 254 and len(address.local_part.encode()) <= 64, "an address that is too long")
    require(address.domain.isascii() and address.domain == parse_address(text).domain, "a domain that changes")
    again = parse_address(text, utf8=not address.is_ascii)
    require(again == address and again.key == address.key, "an address that changes when it is written")
    argument = f"TO:<{text}>"
    found, _ = parse_rcpt(argument, hostname=HOSTNAME, esmtp=True, offered=frozenset(), utf8=not address.is_ascii)
    require(found == address, "an address that RCPT reads in another way")
    header = delivery_header(text, text)
    require(_fields(header) == 2, "an address that makes a header field")


def _fields(header: bytes) -> int:
    scanner = MessageScanner()
    scanner.feed(header)
    scanner.close()
    require(scanner.header_size == len(header), "a header that ends too early")
    require(not scanner.has_bare_line_end, "a bare line end in a header")
    return scanner.fields


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # A command is refused then; a login name, or an argument of a program, may come like this.
        return data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")


def address_check(data: bytes) -> str:
    """`parse_address` and `parse_domain`."""
    text = _text(data)
    try:
        domain = parse_domain(text)
    except AddressError as error:
        require(str(error).isascii() and str(error).isprintable(), "an error that is not a line of ASCII")
        kind = ""
    else:
        require(domain.isascii() and parse_domain(domain) == domain, "a domain that changes")
        kind = "domain" if text.isascii() else "IDNA"
    try:
        address = parse_address(text)
    except AddressError as error:
        require(str(error).isascii() and str(error).isprintable(), "an error that is not a line of ASCII")
        return f"refused {str(error)[-20:]} {kind}"
    check_address(address)
    strict = parse_address(text, utf8=False) if text.isascii() else address
    require(strict == address, "an address of ASCII that SMTPUTF8 changes")
    local, host = address.local_part, address.domain
    literal = host[:5] if host.startswith("[") else ""
    marks = (
        local.startswith('"'),
        "\\" in local,
        local.isascii(),
        text.isascii(),
        "xn--" in host,
        min(local.count("."), 3),
    )
    return f"{literal} {marks}"


def mail_line(mail: Mail) -> str:
    """The argument of MAIL that says ``mail``."""
    said = [f"FROM:<{mail.reverse_path or ''}>"]
    said += [f"SIZE={mail.size}"] if mail.size is not None else []
    said += ["BODY=8BITMIME"] if mail.body_8bit else []
    said += ["SMTPUTF8"] if mail.smtputf8 else []
    said += [f"RET={mail.dsn_return}"] if mail.dsn_return else []
    said += [f"ENVID={xtext(mail.envelope_id)}"] if mail.envelope_id is not None else []
    said += ["REQUIRETLS"] if mail.require_tls else []
    said += [f"HOLDFOR={mail.hold_for}"] if mail.hold_for is not None else []
    if mail.hold_until is not None:
        said.append(f"HOLDUNTIL={(_EPOCH + timedelta(seconds=mail.hold_until)).isoformat()[:26]}Z")
    return " ".join(said)


def xtext(text: str) -> str:
    """RFC 3461 section 4."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def _unitext(text: str) -> str:
    """RFC 6533 section 3, utf-8-addr-xtext: of ASCII only."""
    return "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in text)


def _rcpt_line(address: Address, wish: Wish) -> str:
    said = [f"TO:<{address}>"]
    said += [f"NOTIFY={','.join(wish.notify)}"] if wish.notify is not None else []
    if wish.original is not None:
        kind, _, original = wish.original.partition(";")
        said.append(f"ORCPT={kind};{_unitext(original) if kind == 'utf-8' else xtext(original)}")
    return " ".join(said)


def check_mail(argument: str) -> str:
    """MAIL, what it says, and the same written by us."""
    mail = parse_mail(argument, esmtp=True, offered=MAIL_PARAMETERS, size_limit=SIZE_LIMIT)
    if mail.reverse_path is not None:
        check_address(mail.reverse_path)
        require(mail.reverse_path.is_ascii or mail.smtputf8, "UTF-8 that was not announced")
    if mail.envelope_id is not None:
        clean(mail.envelope_id, "ENVID")
    require(mail.size is None or 0 <= mail.size <= SIZE_LIMIT, "a size past the limit")
    if mail.hold_until is None or _FIRST <= mail.hold_until < _LAST:
        again = parse_mail(mail_line(mail), esmtp=True, offered=MAIL_PARAMETERS, size_limit=SIZE_LIMIT)
        require(again == mail, f"a MAIL that changes: {again}")
    said = (mail.size, mail.smtputf8, mail.dsn_return, mail.envelope_id, mail.require_tls, mail.hold_for)
    return f"MAIL {[bool(each) for each in (*said, mail.hold_until, mail.reverse_path)]}"


def check_rcpt(argument: str) -> str:
    """RCPT with and without SMTPUTF8."""
    utf8 = not argument.isascii()
    address, wish = parse_rcpt(argument, hostname=HOSTNAME, esmtp=True, offered=RCPT_PARAMETERS, utf8=utf8)
    check_address(address)
    if wish.original is not None:
        clean(wish.original, "ORCPT")
    written = _rcpt_line(address, wish)
    if len(wish.original or "") < 80:  # the limit is of what is written, and ours may be longer
        again = parse_rcpt(written, hostname=HOSTNAME, esmtp=True, offered=RCPT_PARAMETERS, utf8=not address.is_ascii)
        require(again == (address, wish), f"a RCPT that changes: {again}")
    origin = Origin("192.0.2.7", "client.example.net", "ESMTP", None, None)
    envelope = Envelope(None, (address,), origin)
    require(_fields(trace_header(envelope, hostname=HOSTNAME, trace_id="x", now=0)) == 1, "a trace with more fields")
    return f"RCPT {wish.notify} {wish.original and wish.original.split(';')[0] in ('utf-8', 'rfc822')} {utf8}"


def check_helo(argument: str) -> str:
    """EHLO: the name stands in Received."""
    name = parse_helo(argument)
    require(parse_helo(name) == name, "a name that changes")
    envelope = Envelope(None, (), Origin("2001:db8::1", name, "ESMTP", None, None))
    require(_fields(trace_header(envelope, hostname=HOSTNAME, trace_id="x", now=0)) == 1, "a trace with more fields")
    return "EHLO"


def check_bdat(argument: str) -> str:
    """BDAT: a number that can be counted to."""
    chunk = parse_bdat(argument)
    require(0 <= chunk.octets < 10**19, "a chunk of a strange length")
    require(parse_bdat(f"{chunk.octets}{' LAST' * chunk.last}") == chunk, "a chunk that changes")
    return f"BDAT {chunk.last}"


def command_check(data: bytes) -> str:
    """A line, from its octets to what it asks for."""
    try:
        verb, argument = parse_command(data)
        require(verb.isascii() and verb.isalpha() and verb.isupper(), "a verb that is none")
        clean(argument, "an argument")
        require(parse_command(f"{verb} {argument}".encode()) == (verb, argument), "a command that changes")
        for session in _SESSIONS:
            refused = refusal(verb, argument, session)
            if refused is not None:
                check_reply(refused)
        match verb:
            case "EHLO" | "HELO" | "LHLO":
                return check_helo(argument)
            case "MAIL":
                return check_mail(argument)
            case "RCPT":
                return check_rcpt(argument)
            case "BDAT":
                return check_bdat(argument)
        return f"other {verb if len(verb) == 4 and refused is None else ''}"
    except CommandError as error:
        return check_reply(error.reply)


def parameter_check(data: bytes) -> str:
    """The parameters of both commands, behind addresses that are right."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    outcomes = []
    for check, path in ((check_mail, "FROM:<a@example.net> "), (check_rcpt, "TO:<b@example.org> ")):
        try:
            # The server takes a line apart first: control characters end there.
            _, argument = parse_command(f"MAIL {path}{text}".encode())
            outcomes.append(check(argument))
        except CommandError as error:
            outcomes.append(check_reply(error.reply))
    return " ".join(outcomes)


def _atom(random: Random) -> bytes:
    return pick(random, b"a", b"alice", b"J.Doe", b"x+y", b"!#$%&'*/=?^_`{|}~-", "jörg".encode(), "δοκιμή".encode())


def _local(random: Random) -> bytes:
    if random.random() < 0.7:
        return _atom(random) + some(random, lambda random: b"." + _atom(random), 2)
    quoted = some(random, lambda random: pick(random, b"a", b" ", b"@", b'\\"', b"\\\\", b">", b"<", b"\\a", b".."), 5)
    return b'"' + quoted + b'"'


def _domain(random: Random) -> bytes:
    if random.random() < 0.2:
        return pick(random, b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"[IPv6:::ffff:192.0.2.1]", b"[IPv6:::]", b"[1.2.3]")
    labels = (
        b"example",
        b"org",
        b"xn--bcher-kva",
        "bücher".encode(),
        b"EXAMPLE",
        b"a-b",
        b"1",
        "例え".encode(),
        b"\xef\xbc\x8e",
    )
    return b".".join(pick(random, *labels) for _ in range(1 + int(random.random() * 3)))


def an_address(random: Random) -> bytes:
    """Mostly right."""
    return _local(random) + b"@" + _domain(random)


def _parameter(random: Random) -> bytes:
    number = b"%d" % int(1 / (random.random() + 1e-9))
    return b" " + pick(
        random,
        b"SIZE=" + number, b"BODY=8BITMIME", b"BODY=7BIT", b"SMTPUTF8", b"REQUIRETLS", b"RET=FULL", b"RET=hdrs",
        b"ENVID=" + some(random, _xtext_piece, 6), b"HOLDFOR=" + number, b"AUTH=<>", b"AUTH=e+3Dmc2@example.com",
        b"HOLDUNTIL=2030-01-31T09:00:00Z", b"HOLDUNTIL=0001-01-01T00:00:00+23:59", b"HOLDUNTIL=9999-12-31T23:59:59.9Z",
        b"HOLDUNTIL=2030-01-31T09:00:00.123456-01:30", b"NOTIFY=NEVER", b"NOTIFY=SUCCESS,delay", b"NOTIFY=FAILURE",
        b"ORCPT=rfc822;" + some(random, _xtext_piece, 6), b"ORCPT=utf-8;" + some(random, _utf8_piece, 6),
        b"ORCPT=x400;" + some(random, _xtext_piece, 6),
    )  # fmt: skip


def _xtext_piece(random: Random) -> bytes:
    return pick(
        random, b"a", b"bob", b"@", b"+2B", b"+3D", b"+20", b"+5C", b".", b"example.org", b"+0A", b"+7F", b"+e4"
    )


def _utf8_piece(random: Random) -> bytes:
    return pick(
        random, b"a", b"@", "ü".encode(), b"\\x{20AC}", b"\\x{10FFFF}", b"\\x{5C}", b"\\x{2B}", b"\\x{D800}",
        b"\\x{2028}", b"x{41}", b"\\x{0A}", b"\\x{A}", b"\\x{3D}", b"\\x{20}", b"example.org", b"\\x{85}",
    )  # fmt: skip


def _parameters(random: Random) -> bytes:
    return some(random, _parameter, 4).lstrip(b" ")


def _path(random: Random) -> bytes:
    route = pick(random, b"", b"", b"", b"@a.example,@b.example:")
    path = pick(random, b"", b"Postmaster", an_address(random), route + an_address(random))
    return pick(random, b":", b":", b" : ") + b"<" + path + b">"


def _command(random: Random) -> bytes:
    return pick(
        random,
        b"MAIL FROM" + _path(random) + some(random, _parameter, 3),
        b"RCPT TO" + _path(random) + some(random, _parameter, 2),
        b"EHLO " + _domain(random),
        b"BDAT " + pick(random, b"0", b"12", b"9" * 19) + pick(random, b"", b" LAST", b" last", b" LAST x"),
        pick(random, b"STARTTLS", b"QUIT", b"AUTH PLAIN =", b"VRFY x", b"NOOP", b"HELP", b"RSET", b"DATA", b"LHLO x"),
    )


_PARAMETER_TOKENS = (
    *(name.encode() + b"=" for name in sorted(MAIL_PARAMETERS | RCPT_PARAMETERS)),
    b"+0D", b"+0A", b"+00", b"+7F", b"\\x{", b"}", b"\\x{A}", b"\\x{85}", b"\\x{2028}", b"utf-8;", b"rfc822;",
    b"SUCCESS",
    b",", b"NEVER", b"HDRS", b"Z", b"T", b"-23:59", b"+14:00", b"9999-12-31T23:59:59", b"0" * 20, "²".encode(),
    "٣".encode(),
)  # fmt: skip

_ADDRESS_TOKENS = (
    b"@", b".", b'"', b"\\", b"[", b"]", b"IPv6:", b"%eth0", b"xn--", b"\xc3\xbc", b"\xe3\x80\x82", b"\xc2\xad",
    b"-", b"::",
    b"x" * 63, b"x." * 30, b"<", b">", "ß".encode(), "İ".encode(), b"\xe2\x80\x8d", b"\xef\xbc\xa0",
    b"\xf0\x9f\x98\x80",
)  # fmt: skip

ADDRESS = Target("address", address_check, an_address, _ADDRESS_TOKENS)
COMMAND = Target(
    "command",
    command_check,
    _command,
    (b"MAIL FROM:<", b"RCPT TO:<", b"EHLO ", b"BDAT ", b"> ", *_ADDRESS_TOKENS, *_PARAMETER_TOKENS),
)
PARAMETERS = Target("parameters", parameter_check, _parameters, _PARAMETER_TOKENS)
