"""SMTP command lines: what is understood, what is refused with which code, and that nothing else happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.reply import Reply
from mailsvc.smtp.commands import CommandError, Mail, parse_command, parse_helo, parse_mail, parse_rcpt

HOST = "mail.example.org"


OFFERED = frozenset({"SIZE", "BODY"})
EVERY = OFFERED | {"AUTH", "SMTPUTF8", "REQUIRETLS", "RET", "ENVID", "HOLDFOR", "HOLDUNTIL", "NOTIFY", "ORCPT"}


def mail(argument: str, *, esmtp: bool = True, limit: int = 1000, auth: bool = False) -> Mail | str:
    """What MAIL gives, or the code and status of its refusal."""
    try:
        return parse_mail(argument, esmtp=esmtp, size_limit=limit, offered=OFFERED | ({"AUTH"} if auth else set()))
    except CommandError as error:
        return short(error.reply)


def rcpt(argument: str) -> str:
    """The recipient, or the code and status of the refusal."""
    try:
        return str(parse_rcpt(argument, hostname=HOST, esmtp=True, offered=frozenset(), utf8=False)[0])
    except CommandError as error:
        return short(error.reply)


def short(reply: Reply) -> str:
    return f"{reply.code} {reply.enhanced}"


class CommandLineTests(SynchronousTestCase):
    """Verb and argument."""

    def test_good(self) -> None:
        """Verbs in any case; white space around the argument does not count."""
        for line, expected in (
            (b"NOOP", ("NOOP", "")),
            (b"noop ", ("NOOP", "")),
            (b"EhLo client.example.net", ("EHLO", "client.example.net")),
            (b"EHLO   x  ", ("EHLO", "x")),
            (b"MAIL FROM:<a@b> SIZE=1", ("MAIL", "FROM:<a@b> SIZE=1")),
            (b"x", ("X", "")),
        ):
            self.assertEqual(parse_command(line), expected)

    def test_bad(self) -> None:
        """Empty lines, leading space, digits, controls and 8-bit octets are 500 5.5.2."""
        for line in (
            b"",
            b" ",
            b" NOOP",
            b"1",
            b"NO-OP",
            b"NOOP\t",
            b"NOOP\0",
            b"EHLO \xff",
            b"NOOP\r",
            b"\x80",
            b"QUIT:",
        ):
            error = self.assertRaises(CommandError, parse_command, line)
            self.assertEqual(short(error.reply), "500 5.5.2", line)

    def test_cost(self) -> None:
        """The cost is linear: what tries each of a million spaces in turn would not come to its end here."""
        for line in (b"X" + b" " * 1_000_000 + b"y", b"X " + b"y " * 500_000, b"X y" + b" " * 1_000_000 + b"y"):
            self.assertEqual(parse_command(line)[0], "X")

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_any_line(self, line: bytes) -> None:
        """Any octets are a verb and a printable argument, or 500."""
        try:
            verb, argument = parse_command(line)
        except CommandError as error:
            self.assertEqual(error.reply.code, 500)
        else:
            self.assertTrue(verb.isalpha() and verb.isupper() and (argument.isprintable() or not argument))


class HeloTests(SynchronousTestCase):
    """The client's name for itself."""

    def test_good(self) -> None:
        """Host names, literals, and the underscores that Windows machines have."""
        for name in ("mail.example.org", "[192.0.2.1]", "[IPv6:2001:db8::1]", "MY_PC", "localhost", "x" * 255):
            self.assertEqual(parse_helo(name), name)

    def test_bad(self) -> None:
        """What could not stand in a Received field is 501 5.5.4, with a hint."""
        for name in ("", "two words", "a(b)", "<a@b>", "a;b", 'a"b', "x" * 256, "a\\b", "a/b"):
            error = self.assertRaises(CommandError, parse_helo, name)
            self.assertEqual(short(error.reply), "501 5.5.4", name)


class MailTests(SynchronousTestCase):
    """The argument of MAIL."""

    def test_paths(self) -> None:
        """Reverse-paths: the null sender, quoted local parts, source routes, and a space behind the colon."""
        for argument, sender in (
            ("FROM:<>", None),
            ("FROM:<a@b.example>", "a@b.example"),
            ("from: <a@b.example>", "a@b.example"),
            ("FROM : <a@b.example>", "a@b.example"),
            ("FROM:<@relay.example,@x.example:a@b.example>", "a@b.example"),
            ('FROM:<"a b"@c.example>', '"a b"@c.example'),
            (r'FROM:<"a\">b"@c.example>', r'"a\">b"@c.example'),
            ('FROM:<"<>"@c.example>', '"<>"@c.example'),
            ('FROM:<"@x:y"@c.example>', '"@x:y"@c.example'),
            ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ):
            expected = None if sender is None else parse_address(sender)
            self.assertEqual(mail(argument), Mail(expected, None, False), argument)

    def test_syntax(self) -> None:
        """Each kind of mistake has its code."""
        for argument, expected in (
            ("", "501 5.5.4"),
            ("FROM", "501 5.5.4"),
            ("TO:<a@b>", "501 5.5.4"),
            ("FROM<a@b>", "501 5.5.4"),
            ("FROM:", "501 5.1.7"),
            ("FROM:a@b", "501 5.1.7"),
            ("FROM:<a@b", "501 5.1.7"),
            ("FROM:<a@b> >", "501 5.5.4"),
            ("FROM:<a@b>SIZE=1", "501 5.1.7"),
            ("FROM:<a@b>x", "501 5.1.7"),
            ('FROM:<"a@b>', "501 5.1.7"),
            ("FROM:Alice <a@b>", "501 5.1.7"),
            ("FROM:<<a@b>>", "501 5.1.7"),
            ("FROM:<a>", "553 5.1.7"),
            ("FROM:< >", "553 5.1.7"),
            ("FROM:<a b@c>", "553 5.1.7"),
            ("FROM:<a..b@c>", "553 5.1.7"),
            ("FROM:<@relay.example>", "553 5.1.7"),
            ('FROM:<@"x@y:z"@c.example>', "553 5.1.7"),
            ("FROM:<" + "a" * 65 + "@b>", "553 5.1.7"),
        ):
            self.assertEqual(mail(argument), expected, argument)

    def test_route_to_nobody(self) -> None:
        """A source route before an empty path is not the null sender."""
        self.assertEqual(mail("FROM:<@relay.example:>"), "553 5.1.7")

    def test_parameters(self) -> None:
        """SIZE (RFC 1870), BODY (RFC 6152), AUTH where it is offered (RFC 4954 section 5)."""
        for argument, expected in (
            (" SIZE=1000", Mail(None, 1000, False)),
            (" size=0", Mail(None, 0, False)),
            (" SIZE=00000000000000000999", Mail(None, 999, False)),
            (" BODY=8BITMIME", Mail(None, None, True)),
            (" body=7bit", Mail(None, None, False)),
            ("  SIZE=1   BODY=8bitmime ", Mail(None, 1, True)),
            (" AUTH=<>", Mail(None, None, False)),
            (" AUTH=a+2Bb@c.example", Mail(None, None, False)),
            (" SIZE=1001", "552 5.3.4"),
            (" SIZE=99999999999999999999", "552 5.3.4"),
            (" SIZE", "501 5.5.4"),
            (" SIZE=", "501 5.5.4"),
            (" SIZE=x", "501 5.5.4"),
            (" SIZE=-1", "501 5.5.4"),
            (" SIZE=+1", "501 5.5.4"),
            (" SIZE=1e3", "501 5.5.4"),
            (" SIZE=000000000000000000001", "501 5.5.4"),
            (" SIZE=1 SIZE=1", "501 5.5.4"),
            (" SIZE=1 size=2", "501 5.5.4"),
            (" BODY", "501 5.5.4"),
            (" BODY=BINARYMIME", "501 5.5.4"),
            (" AUTH", "501 5.5.4"),
            (" AUTH=a+zz", "501 5.5.4"),
            (" SMTPUTF8", "555 5.5.4"),
            (" RET=FULL", "555 5.5.4"),
            (" REQUIRETLS", "555 5.5.4"),
            (" =", "501 5.5.4"),
            (" -X=1", "501 5.5.4"),
            (" X=a=b", "501 5.5.4"),
        ):
            self.assertEqual(mail("FROM:<>" + argument, auth=True), expected, argument)

    def test_auth_parameter_where_there_is_no_auth(self) -> None:
        """AUTH= is unknown where AUTH is not offered."""
        self.assertEqual(mail("FROM:<> AUTH=<>"), "555 5.5.4")

    def test_parameters_need_ehlo(self) -> None:
        """A client that said HELO knows no parameters (RFC 5321 section 2.2.1)."""
        self.assertEqual(mail("FROM:<> SIZE=1", esmtp=False), "555 5.5.4")
        self.assertEqual(mail("FROM:<>", esmtp=False), Mail(None, None, False))

    @settings(deadline=None, max_examples=300)
    @given(st.text(st.sampled_from('FROMTO:<>@"\\ab.,=S[]-; 1'), max_size=60))
    def test_any_argument(self, argument: str) -> None:
        """Any printable argument is understood or refused with 501, 552, 553 or 555, in lines of 512 octets."""
        for parse in (
            lambda: parse_mail(f"FROM:{argument}", esmtp=True, size_limit=10, offered=EVERY),
            lambda: parse_rcpt(f"TO:{argument}", hostname=HOST, esmtp=True, offered=EVERY, utf8=True)[0],
        ):
            try:
                parse()
            except CommandError as error:
                self.assertIn(error.reply.code, (501, 552, 553, 555))
                self.assertLessEqual(len(error.reply.encode()), 512)

    def test_cost(self) -> None:
        """No path is expensive to refuse: with a quadratic rule these would not come to their end here."""
        many = 200_000
        for argument in (
            "FROM:<" + '"' * many,
            "FROM:<" + '""' * many + ">x",
            "FROM:<" + '"a"a' * many + '"',
            "FROM:<" + "\\" * many,
            "FROM:" + " " * many + "x",
            "FROM:<>" + " " * many + "=",
            "FROM:<" + "@a," * many + "a@b>",
            "FROM:<" + '"\\' + "\\" * many + ">",
            "FROM:<" + "a." * many + "@b>",
            "FROM:<" + "a@" * many + ">",
            "FROM:<a@" + "b." * many + ">",
            "FROM:<a@" + "b-" * many + ">",
            "FROM:<> " + "X " * many,
            "FROM:<> SIZE=" + "1" * many,
        ):
            self.assertIsInstance(mail(argument), str, argument[:10])


class RcptTests(SynchronousTestCase):
    """The argument of RCPT."""

    def test_paths(self) -> None:
        """Forward-paths, postmaster without a domain (RFC 5321 section 4.5.1), and what is refused."""
        for argument, expected in (
            ("TO:<a@b.example>", "a@b.example"),
            ("to: <a@B.example>", "a@b.example"),
            ("TO:<@relay.example:a@b.example>", "a@b.example"),
            ("TO:<Postmaster>", f"Postmaster@{HOST}"),
            ("TO:<postMASTER>", f"postMASTER@{HOST}"),
            ("TO:<>", "553 5.1.3"),
            ("TO:<alice>", "553 5.1.3"),
            ("TO:a@b", "501 5.1.3"),
            ("FROM:<a@b>", "501 5.5.4"),
            ("", "501 5.5.4"),
            ("TO:<a@b> NOTIFY=NEVER", "555 5.5.4"),
            ("TO:<a@b> SIZE=1", "555 5.5.4"),
            ("TO:<a@b> <c@d>", "501 5.5.4"),
            ("TO:<a@b>,<c@d>", "501 5.1.3"),
        ):
            self.assertEqual(rcpt(argument), expected, argument)
