"""The small internet that the tests of outgoing mail share: which servers, which domains, which of them are signed.

It takes some seconds to start, so there is one for the whole run, made when the first test asks for it.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from mailsvc.certkit.build import client_certificate
from tests.interop import peers
from tests.interop.names import Zone, serve, tlsa_2_0_1, tlsa_3_1_1
from tests.interop.peers import MailServer, address
from tests.interop.programs import program
from tests.interop.world import NETWORK, World, until
from tests.pki import authority, credential
from tests.running import python_environment

SCHEMES = ("smtp+tls", "smtp", "tls", "smtps", "ssl")
"""Those that every SMTP server is tried with, at ``SCHEME.PEER.example`` (with a hyphen for the plus)."""

DANE_DOMAINS = {
    "ee.example": ("delivered", "verified with DANE (required: encrypted, server verified with DANE)"),
    "ta.example": ("delivered", "verified with DANE (required: encrypted, server verified with DANE)"),
    "wrong.example": ("deferred", "requires: encrypted, server verified with DANE"),
    "notls.example": ("deferred", "requires: encrypted, server verified with DANE"),
    "forged.example": ("deferred", ""),
    "halfforged.example": ("deferred", ""),
    "unsigned.example": ("delivered", "(required: not encrypted)"),
}
"""What becomes of mail for each, and what is told of the channel."""

STS_DOMAINS = {
    "sts.example": ("delivered", "server name verified (required: encrypted, server name verified)"),
    "stsother.example": ("deferred", ""),
    "stsplain.example": ("deferred", "requires: encrypted, server name verified"),
    "ststesting.example": ("delivered", "not encrypted (required: not encrypted)"),
    "stsgone.example": ("delivered", "(required: not encrypted)"),
}
"""Likewise."""

_POSTFIX, _OPENSMTPD, _EXIM, _SINK, _CLOSED, _OLD, _LMTP, _PRIMARY, _WEB = 10, 11, 12, 13, 14, 15, 16, 17, 20
_POSTFIX_NAMES = ("mx.postfix.example", "mx.ta.example", "mx.sts.example", "closed.postfix.example")
_STS = {
    "sts.example": ("enforce", "mx.sts.example"),
    "stsother.example": ("enforce", "mx.elsewhere.example"),
    "stsplain.example": ("enforce", "mx.sink.example"),
    "ststesting.example": ("testing", "mx.sink.example"),
}
_ENDS_AT_POSTFIX = ("postfix.example", "open.example", "backup.postfix.example", "shown.example", "loop.example")


@dataclass(frozen=True)
class Peering:
    """The world and the servers in it; a server that is not installed raises when it is asked for."""

    world: World
    ca: Path
    client: Path

    @property
    def postfix(self) -> MailServer:
        """Postfix; at closed.postfix.example it demands a client certificate."""
        return _server("postfix")

    @property
    def opensmtpd(self) -> MailServer:
        """OpenSMTPD."""
        return _server("opensmtpd")

    @property
    def exim(self) -> MailServer:
        """Exim."""
        return _server("exim")

    @property
    def sink(self) -> MailServer:
        """smtp-sink: no TLS, no DSN, no SMTPUTF8."""
        return _server("sink")

    @property
    def old(self) -> MailServer:
        """smtp-sink without EHLO's keywords for eight bits and pipelining."""
        return _server("old")

    @property
    def primary(self) -> MailServer:
        """smtp-sink, the best MX host of primary.example; down until somebody asks for it here."""
        return _server("primary")

    @property
    def lmtp(self) -> MailServer:
        """smtp-sink that speaks LMTP, on port 24."""
        return _server("lmtp")

    @property
    def lmtp_socket(self) -> str:
        """The path of a UNIX socket where smtp-sink speaks LMTP."""
        return _lmtp_socket()

    @property
    def environment(self) -> dict[str, str]:
        """For mailsvc: the world's CA is the one that this machine trusts, and its addresses are the internet's."""
        return python_environment(SSL_CERT_FILE=str(self.ca), MAILSVC_CONFIG=str(self.world.folder / "inside.toml"))

    def mailsvc(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
        """What the command line prints, run in the world."""
        return self.world.run(
            sys.executable, "-m", "mailsvc", *arguments, environment=self.environment, allowed=allowed
        )


@cache
def peering() -> Peering:
    """The one of this run; skips the test where there can be none."""
    world = World([_POSTFIX, _OPENSMTPD, _EXIM, _SINK, _CLOSED, _OLD, _LMTP, _PRIMARY, _WEB])
    atexit.register(world.end)
    ca = peers.write_ca(world.folder)
    (world.folder / "inside.toml").write_text(f'[relay]\nprivate_networks = ["{NETWORK}.0/24"]\n')
    serve(world, list(_zones()))
    _web(world)
    client = world.folder / "client"
    issued = client_certificate(authority(), "mail.example.org", datetime.now(UTC))
    peers.write_credential(client, issued)
    return Peering(world, ca, client)


@cache
def _server(name: str) -> MailServer:
    world = peering().world
    at_postfix = (*_ENDS_AT_POSTFIX, *_each("postfix"), *DANE_DOMAINS, *STS_DOMAINS)
    at_opensmtpd, at_exim = ("opensmtpd.example", *_each("opensmtpd")), ("exim.example", *_each("exim"))
    made: dict[str, Callable[[], MailServer]] = {
        "postfix": lambda: peers.postfix(world, _POSTFIX, _POSTFIX_NAMES, at_postfix, _CLOSED),
        "opensmtpd": lambda: peers.opensmtpd(world, _OPENSMTPD, ("mx.opensmtpd.example",), at_opensmtpd),
        "exim": lambda: peers.exim(world, _EXIM, ("mx.exim.example",), at_exim),
        "sink": lambda: peers.smtp_sink(world, _SINK, "-N"),
        "old": lambda: peers.smtp_sink(world, _OLD, "-8", "-p", name="old"),
        "primary": lambda: peers.smtp_sink(world, _PRIMARY, name="primary"),
        "lmtp": lambda: peers.smtp_sink(world, _LMTP, "-L", name="lmtp", port=24),
    }
    return made[name]()


@cache
def _lmtp_socket() -> str:
    world = peering().world
    path = world.folder / "lmtp.socket"
    world.start("smtp-sink", [program("smtp-sink"), "-u", "nobody", "-L", f"unix:{path}", "100"], "")
    until(path.is_socket, f"nobody listens at {path}")
    return str(path)


def _each(name: str) -> list[str]:
    return [f"{scheme.replace('+', '-')}.{name}.example" for scheme in SCHEMES]


def _zones() -> list[Zone]:
    key = tlsa_3_1_1(credential(_POSTFIX_NAMES).certificate)
    issuer = tlsa_2_0_1(authority().certificate)
    other = "3 1 1 " + "00" * 32
    plain = [
        *_mail("postfix.example", _POSTFIX),
        *_mail("opensmtpd.example", _OPENSMTPD),
        *_mail("exim.example", _EXIM),
        *_mail("sink.example", _SINK),
        *_mail("old.example", _OLD),
        f"mx.lmtp.example. 300 IN A {address(_LMTP)}",
        f"closed.postfix.example. 300 IN A {address(_CLOSED)}",
        # The record says nothing, because nobody has signed it.
        *_dane("unsigned.example", _POSTFIX, other),
        "null.example. 300 IN MX 0 .",
        "loop.example. 300 IN MX 10 mail.example.org.",
        "loop.example. 300 IN MX 20 mx.postfix.example.",
        "open.example. 300 IN MX 10 nobody.open.example.",
        "open.example. 300 IN MX 20 mx.postfix.example.",
        # Nobody is there, and nobody is behind it.
        "nobody.open.example. 300 IN A 127.0.0.9",
        "backup.postfix.example. 300 IN MX 10 mx.postfix.example.",
        "backup.postfix.example. 300 IN MX 20 mail.example.org.",
        # This host is the second of three.
        "primary.example. 300 IN MX 10 mx.primary.example.",
        "primary.example. 300 IN MX 20 mail.example.org.",
        "primary.example. 300 IN MX 30 mx.old.example.",
        f"mx.primary.example. 300 IN A {address(_PRIMARY)}",
        *_sts("sts.example", _POSTFIX),
        *_sts("stsother.example", _POSTFIX),
        *_sts("stsgone.example", _POSTFIX),
        *_sts("stsplain.example", _SINK, "mx.sink.example"),
        *_sts("ststesting.example", _SINK, "mx.sink.example"),
    ]
    return [
        Zone("", plain),
        Zone("ee.example", [*_mail("ee.example", _POSTFIX), f"_25._tcp.mx.ee.example. 300 IN TLSA {key}"], True),
        Zone("ta.example", [*_mail("ta.example", _POSTFIX), f"_25._tcp.mx.ta.example. 300 IN TLSA {issuer}"], True),
        Zone(
            "wrong.example",
            [*_mail("wrong.example", _POSTFIX), f"_25._tcp.mx.wrong.example. 300 IN TLSA {other}"],
            True,
        ),
        Zone("notls.example", [*_mail("notls.example", _SINK), f"_25._tcp.mx.notls.example. 300 IN TLSA {key}"], True),
        Zone(
            "forged.example",
            _mail("forged.example", _POSTFIX),
            True,
            ["forged.example. 300 IN MX 10 mx.sink.example."],
        ),
        Zone(
            "halfforged.example",
            _dane("halfforged.example", _POSTFIX, other),
            True,
            [f"_25._tcp.mx.halfforged.example. 300 IN TLSA {key}"],
        ),
    ]


def _mail(domain: str, last: int) -> list[str]:
    return [f"{domain}. 300 IN MX 10 mx.{domain}.", f"mx.{domain}. 300 IN A {address(last)}"]


def _dane(domain: str, last: int, data: str) -> list[str]:
    return [*_mail(domain, last), f"_25._tcp.mx.{domain}. 300 IN TLSA {data}"]


def _sts(domain: str, last: int, host: str = "") -> list[str]:
    mail = [f"{domain}. 300 IN MX 10 {host}."] if host else _mail(domain, last)
    return [
        *mail,
        f'_mta-sts.{domain}. 300 IN TXT "v=STSv1; id=1;"',
        f"mta-sts.{domain}. 300 IN A {address(_WEB)}",
    ]


def _web(world: World) -> None:
    folder = world.folder / "web"
    folder.mkdir()
    for domain, (mode, host) in _STS.items():
        (folder / domain).write_bytes(f"version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 86400\r\n".encode())
    names = tuple(f"mta-sts.{domain}" for domain in (*_STS, "stsgone.example"))
    chain, key = peers.write_credential(world.folder / "web-tls", credential(names))
    command = [sys.executable, "-m", "tests.interop.web", address(_WEB), str(chain), str(key), str(folder)]
    world.start("web server", command, "serving", environment=python_environment())
