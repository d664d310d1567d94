"""Mail that goes out to other people's servers: Postfix, Exim, OpenSMTPD and smtp-sink take it, or it waits.

Each test hands in one message for many recipients, whose domains have a route or MX records each; so many ways are
tried at the same time.
"""

from __future__ import annotations

import json
import quopri

from tests.interop.peering import DANE_DOMAINS, SCHEMES, STS_DOMAINS
from tests.interop.peers import PASSWORD, USER, MailServer, opensmtpd_version
from tests.interop.sending import SendingCase

NAME = "server name verified"


class EverySchemeToEveryPeer(SendingCase):
    """The URL says what the channel is, whatever the server can do."""

    def tried(self, server: MailServer, name: str) -> dict[str, tuple[str, bool]]:
        """Scheme -> what came of it, and whether the channel was encrypted, with the server's name verified."""
        domains = {scheme: f"{scheme.replace('+', '-')}.{name}.example" for scheme in SCHEMES}
        self.routes({domain: (f"{scheme}://mx.{name}.example",) for scheme, domain in domains.items()})
        recipients = {scheme: f"bob@{domain}" for scheme, domain in domains.items()}
        self.submit(self.message(f"for {name}\r\n".encode()), list(recipients.values()))
        became = self.became(list(recipients.values()))
        delivered = sum(each.result == "delivered" for each in became.values())
        server.took(self.marker)
        self.assertLessEqual(len(server.copies(self.marker)), delivered)
        return {scheme: (became[to].result, NAME in observed(became[to].channel)) for scheme, to in recipients.items()}

    def test_to_postfix(self) -> None:
        """It has STARTTLS, TLS from the first octet, and a certificate with its name: every scheme delivers."""
        found = self.tried(self.here.postfix, "postfix")
        secure = ("delivered", True)
        self.assertEqual(
            found, dict.fromkeys(SCHEMES, secure) | {"smtp": ("delivered", False)}, self.service.log_tail()
        )

    def test_to_exim(self) -> None:
        """The same; its TLS is GnuTLS."""
        found = self.tried(self.here.exim, "exim")
        secure = ("delivered", True)
        self.assertEqual(
            found, dict.fromkeys(SCHEMES, secure) | {"smtp": ("delivered", False)}, self.service.log_tail()
        )

    def test_to_opensmtpd(self) -> None:
        """That of Debian 12 offers STARTTLS and breaks every handshake off (it was written for OpenSSL 1.1).

        So mail waits that must be encrypted, and mail that need not goes in plain text on a new connection.
        """
        found = self.tried(self.here.opensmtpd, "opensmtpd")
        if "6.8" in opensmtpd_version():
            expected = dict.fromkeys(SCHEMES, ("deferred", False)) | dict.fromkeys(
                ("smtp", "smtp+tls"), ("delivered", False)
            )
        else:
            expected = dict.fromkeys(SCHEMES, ("delivered", True)) | {"smtp": ("delivered", False)}
        self.assertEqual(found, expected, self.service.log_tail())

    def test_to_smtp_sink(self) -> None:
        """It knows no TLS: only what may go in plain text goes."""
        found = self.tried(self.here.sink, "sink")
        expected = dict.fromkeys(SCHEMES, ("deferred", False)) | dict.fromkeys(
            ("smtp", "smtp+tls"), ("delivered", False)
        )
        self.assertEqual(found, expected, self.service.log_tail())

    def test_lmtp_and_backup(self) -> None:
        """smtp-sink takes LMTP by TCP and by a UNIX socket, and Postfix what its backup MX holds."""
        postfix, lmtp, local = self.here.postfix, self.here.lmtp, self.here.lmtp_socket
        self.routes(
            {
                "tcp.lmtp.example": (f"lmtp://{lmtp.host}",),
                "unix.lmtp.example": (f"lmtp://{local}",),
                "backup.postfix.example": ("backup://mail.example.org",),
            }
        )
        recipients = ["bob@tcp.lmtp.example", "bob@unix.lmtp.example", "bob@backup.postfix.example"]
        self.submit(self.message(), recipients)
        for recipient, became in self.became(recipients).items():
            self.assertEqual(became.result, "delivered", f"{recipient}: {became}")
        postfix.took(self.marker)
        lmtp.took(self.marker)


class Backup(SendingCase):
    """This host is an MX of the domain, and not its best."""

    def test_the_primary_comes_back(self) -> None:
        """While the better MX host is down mail waits here, and never goes to a worse one; when it is back it gets the
        mail.

        Rule: Backup MX: mail goes to better MX hosts only, when one is back
        """
        worse, recipient = self.here.old, "bob@primary.example"
        self.route("primary.example", "backup://mail.example.org")
        self.submit(self.message(), [recipient])
        became = self.became([recipient])[recipient]
        self.assertEqual((became.result, became.host), ("deferred", "mx.primary.example"), became)
        primary = self.here.primary
        self.here.mailsvc(f"--database={self.service.database}", "queue", "flush", "--to", recipient)
        became = self.became([recipient], attempt=2)[recipient]
        self.assertEqual((became.result, became.host), ("delivered", "mx.primary.example"), became)
        self.assertIn(f"X-Rcpt-Args: <{recipient}>".encode(), primary.took(self.marker))
        self.assertEqual(worse.copies(self.marker), [])


class Credentials(SendingCase):
    """Servers that want to know who we are."""

    def test_a_relay_that_demands_a_login(self) -> None:
        """Exim's port 587: with the right password it delivers, with a wrong one the mail waits, without one Exim
        refuses the recipient for good, and the sender has a report."""
        exim = self.here.exim
        self.routes(
            {
                "right.login.example": ("tls://right@mx.exim.example:587",),
                "wrong.login.example": ("tls://wrong@mx.exim.example:587",),
                "none.login.example": ("tls://mx.exim.example:587",),
            }
        )
        recipients = [f"bob@{which}.login.example" for which in ("right", "wrong", "none")]
        self.submit(self.message(), recipients)
        became = self.became(recipients)
        self.assertEqual([became[each].result for each in recipients], ["delivered", "deferred", "failed"], became)
        self.assertIn("535", became["bob@wrong.login.example"].text)
        exim.took(self.marker)
        [report] = self.reports()
        self.assertIn(b"\r\nFinal-Recipient: rfc822; bob@none.login.example\r\nAction: failed\r\n", report)
        self.assertIn(b"authentication is required here", report)

    def test_a_relay_that_demands_a_client_certificate(self) -> None:
        """Postfix's `smtpd_tls_req_ccert`: with ours it delivers and says whose it was, without the mail waits."""
        postfix, closed = self.here.postfix, "tls://closed.postfix.example"
        self.routes({"shown.example": (f"{closed}?cert={self.here.client}",), "hidden.example": (closed,)})
        # Postfix takes no domain that is not its own.
        shown, hidden = "bob@shown.example", "bob@hidden.example"
        self.submit(self.message(), [shown, hidden])
        became = self.became([shown, hidden])
        self.assertEqual((became[shown].result, became[hidden].result), ("delivered", "deferred"), became)
        self.assertIn(b'Client CN "mail.example.org", Issuer "', postfix.took(self.marker))

    def test_mailsvc_send_logs_in(self) -> None:
        """From the command line, to Exim: the verdict names who took it, under which id, over which channel."""
        password = self.here.world.folder / "password"
        password.touch(0o600)
        password.write_text(f"{PASSWORD}\n")
        login = ("--user", USER, "--password-file", str(password), "--via", "tls://mx.exim.example:587")
        text = ("--from", self.user.address, "--subject", self.marker, "--body", "hello")
        said = self.here.mailsvc("send", "--json", *login, *text, "bob@elsewhere.example")
        [told] = json.loads(said)["recipients"]
        self.assertEqual((told["result"], told["level"], told["host"]), ("delivered", "name", "mx.exim.example"))
        self.assertIn(told["id"].encode(), self.here.exim.took(self.marker))


class Reports(SendingCase):
    """What the sender hears."""

    def test_refused_for_good_and_for_now(self) -> None:
        """Unknown recipients come back in one report for each attempt, with the words of the server; one that is put
        off waits, and nobody is told yet."""
        self.here.exim, self.here.postfix  # noqa: B018
        recipients = ["nobody@exim.example", "busy@postfix.example", "bob@postfix.example", "bob@null.example"]
        self.submit(self.message(), recipients, options=["RET=HDRS", "ENVID=e1"])
        became = self.became(recipients)
        self.assertEqual(
            [became[each].result for each in recipients], ["failed", "deferred", "delivered", "failed"], became
        )
        reports = b"".join(self.reports(2))
        self.assertEqual(reports.count(b"\r\nAction: failed\r\n"), 2)
        self.assertIn(b"\r\nFinal-Recipient: rfc822; nobody@exim.example\r\n", reports)
        self.assertIn(b"\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n", reports)
        self.assertIn(b"\r\nFinal-Recipient: rfc822; bob@null.example\r\n", reports)
        self.assertIn(b"\r\nStatus: 5.1.10\r\n", reports)
        self.assertIn(b"\r\nOriginal-Envelope-Id: e1\r\n", reports)
        self.assertEqual(reports.count(b"\r\nReturn-Path: <>\r\n") + reports.startswith(b"Return-Path: <>\r\n"), 2)
        listed = self.here.mailsvc(f"--database={self.service.database}", "queue", "list", "--to", recipients[1])
        self.assertIn("450 4.7.1", listed)

    def test_success_is_reported_by_who_can(self) -> None:
        """NOTIFY=SUCCESS: smtp-sink knows no DSN, so we say "relayed"; Exim does, so we say nothing."""
        self.here.exim, self.here.sink  # noqa: B018
        recipients = ["bob@sink.example", "bob@exim.example"]
        self.submit(self.message(), recipients, wishes=["NOTIFY=SUCCESS"])
        self.assertEqual({each.result for each in self.became(recipients).values()}, {"delivered"})
        [report] = self.reports()
        self.assertIn(b"\r\nFinal-Recipient: rfc822; bob@sink.example\r\nAction: relayed\r\n", report)
        self.assertNotIn(b"bob@exim.example\r\nAction", report)


class Contents(SendingCase):
    """What arrives is what was handed in, or nothing."""

    EIGHT = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n"
    BODY = "Grüße\r\n.\r\n..\r\n.dot\r\n\r\nthe last line\r\n".encode() + b"x" * 900 + b"\r\n"

    def test_eight_bits_and_dots(self) -> None:
        """Postfix, Exim and OpenSMTPD get every octet; a server without 8BITMIME gets quoted-printable, which means
        the same."""
        servers = [self.here.postfix, self.here.exim, self.here.opensmtpd]
        old = self.here.old
        recipients = [f"bob@{name}.example" for name in ("postfix", "exim", "opensmtpd", "old")]
        self.submit(self.message(self.BODY, self.EIGHT), recipients, options=["BODY=8BITMIME"])
        for recipient, became in self.became(recipients).items():
            self.assertEqual(became.result, "delivered", f"{recipient}: {became}")
        for server in servers:
            body = server.took(self.marker).replace(b"\r\n", b"\n").partition(b"\n\n")[2]
            self.assertEqual(body, self.BODY.replace(b"\r\n", b"\n"), server.name)
        header, _, body = old.took(self.marker).replace(b"\r\n", b"\n").partition(b"\n\n")
        self.assertIn(b"Content-Transfer-Encoding: quoted-printable", header)
        self.assertTrue((header + body).isascii())
        self.assertEqual(quopri.decodestring(body).rstrip(b"\n"), self.BODY.replace(b"\r\n", b"\n").rstrip(b"\n"))

    def test_large(self) -> None:
        """A megabyte arrives whole, in pieces (CHUNKING) and as DATA; one above the server's SIZE comes back."""
        body = b"".join(b"%07d %s\r\n" % (number, b"." * 64) for number in range(14_000))
        recipients = ["bob@postfix.example", "bob@opensmtpd.example"]
        self.submit(self.message(body), recipients)
        for recipient, became in self.became(recipients).items():
            self.assertEqual(became.result, "delivered", f"{recipient}: {became}")
        for server in (self.here.postfix, self.here.opensmtpd):
            taken = server.took(self.marker).replace(b"\r\n", b"\n").partition(b"\n\n")[2]
            self.assertEqual(taken, body.replace(b"\r\n", b"\n"), server.name)
        self.submit(self.message(body * 3), ["large@postfix.example"])
        [became] = self.became(["large@postfix.example"]).values()
        self.assertEqual(became.result, "failed", became)
        [report] = self.reports()
        self.assertIn(b"\r\nStatus: 5.3.4\r\n", report)

    def test_utf8_addresses(self) -> None:
        """Postfix and Exim take them; smtp-sink does not know SMTPUTF8, and gets no other form of the address."""
        self.here.postfix, self.here.exim, self.here.sink  # noqa: B018
        recipients = [f"b\u00fccher@{name}.example" for name in ("postfix", "exim", "sink")]
        self.submit(self.message(), recipients, options=["SMTPUTF8", "BODY=8BITMIME"])
        became = self.became(recipients)
        self.assertEqual([became[each].result for each in recipients], ["delivered", "delivered", "failed"], became)
        self.assertEqual(self.here.sink.copies(self.marker), [])
        [report] = self.reports()
        self.assertIn(b"\r\nStatus: 5.6.7\r\n", report)


class Published(SendingCase):
    """What a domain publishes about its mail servers is kept: DANE by DNSSEC, MTA-STS by HTTPS."""

    def test_dane(self) -> None:
        """Only signed records count, and they count without exception: a server that does not match, has no STARTTLS or
        stands behind a forged answer gets nothing; what nobody has signed says nothing."""
        self.here.postfix, self.here.sink  # noqa: B018
        recipients = [f"bob@{domain}" for domain in DANE_DOMAINS]
        self.submit(self.message(), recipients)
        became = self.became(recipients)
        for domain, (result, channel) in DANE_DOMAINS.items():
            found = became[f"bob@{domain}"]
            self.assertEqual(found.result, result, f"{domain}: {found}")
            self.assertIn(channel, found.channel, domain)
        self.assertEqual(self.here.sink.copies(self.marker), [])
        for domain in ("forged.example", "halfforged.example"):
            self.assertIn("SERVFAIL", became[f"bob@{domain}"].text)
        said = self.here.mailsvc(f"--database={self.service.database}", "why", "bob@wrong.example")
        self.assertIn("none of the 1 usable TLSA records of mx.wrong.example matches", said)

    def test_mta_sts(self) -> None:
        """A policy that is enforced names the hosts and demands their names; one in testing, or one that cannot be had,
        stops nothing."""
        self.here.postfix, self.here.sink  # noqa: B018
        recipients = [f"bob@{domain}" for domain in STS_DOMAINS]
        self.submit(self.message(), recipients)
        became = self.became(recipients)
        for domain, (result, channel) in STS_DOMAINS.items():
            found = became[f"bob@{domain}"]
            self.assertEqual(found.result, result, f"{domain}: {found}")
            self.assertIn(channel, found.channel, domain)
        self.assertIn("does not name mx.stsother.example", became["bob@stsother.example"].text)
        self.assertEqual(len(self.here.sink.copies(self.marker)), 1)

    def test_mx_records(self) -> None:
        """The next host is tried when nobody listens on the first; we never go to a worse one than ourselves; a null MX
        and a domain without hosts are answers."""
        self.here.postfix  # noqa: B018
        recipients = ["bob@open.example", "bob@loop.example", "bob@null.example", "bob@nowhere.example"]
        self.submit(self.message(), recipients)
        became = self.became(recipients)
        self.assertEqual(
            [became[each].result for each in recipients], ["delivered", "failed", "failed", "failed"], became
        )
        self.assertEqual(became["bob@open.example"].host, "mx.postfix.example")
        self.assertIn("null MX", became["bob@null.example"].text)
        self.assertEqual(len(self.here.postfix.copies(self.marker)), 1)

    def test_mailsvc_send_to_the_mx(self) -> None:
        """The command line keeps to the same, and says why: status 0 for what is taken, 4 or 6 for what is not."""
        self.here.postfix  # noqa: B018
        text = ("--mx", "--json", "--from", self.user.address, "--subject", self.marker, "--body", "hello")
        [told] = json.loads(self.here.mailsvc("send", *text, "bob@ee.example"))["recipients"]
        self.assertEqual((told["result"], told["level"], told["required"]), ("delivered", "dane", "dane"))
        [told] = json.loads(self.here.mailsvc("send", *text, "bob@wrong.example", allowed=(4, 6)))["recipients"]
        self.assertEqual((told["result"], told["required"]), ("deferred", "dane"))
        self.assertEqual(len(self.here.postfix.copies(self.marker)), 1)


def observed(channel: str) -> str:
    """The part of a verdict that says what the channel was, without what was demanded."""
    return channel.partition(" (required")[0].partition(", but the policy requires")[0]
