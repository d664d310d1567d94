"""`mailsvc probe HOST[:PORT]`: what a server's TLS is worth, explained; and `--self`, the same for our own listeners.

It does what ``openssl s_client -starttls smtp -showcerts`` is used for, and says what it means.  The conversation is
`mailsvc.probe.session`, the judgement `mailsvc.probe.conclusion`, the words `mailsvc.probe.report`; here are the
options, the defaults of the ports, and the reactor.

The hardest idea: a probe must describe what it would never accept.  So it connects demanding nothing but encryption,
has everything checked and recorded, and compares with what a strict client and our relay demand only afterwards.  It
never changes anything: the downgrade memory is read and not taught.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import read_chain, read_key
from mailsvc.certkit.names import ascii_host
from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.cli import probe_self
from mailsvc.cli.main import Common
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.mtasts.fetch import Connect, sts_facts
from mailsvc.probe.conclusion import NOTHING_REMEMBERED, Published, conclude
from mailsvc.probe.observation import Talk, Target
from mailsvc.probe.report import Report, as_json, lines
from mailsvc.probe.session import Limits, observe
from mailsvc.relay.demands import DaneFacts, StsFacts
from mailsvc.relay.facts import dane_facts, mail_domain
from mailsvc.resolver import Resolver, SystemResolver
from mailsvc.storage.opening import glancing
from mailsvc.storage.tls_policies import demanded
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.roots import Roots, RootsFile, RootsFolder, SystemRoots, Trust
from mailsvc.tls.sessions import SessionStore

T = TypeVar("T")

_SCHEMA = 10
"""The first that has the downgrade memory."""

_DAY = 86400.0

_PORTS: dict[int, tuple[Talk, bool]] = {
    24: (Talk.LMTP, False),
    25: (Talk.SMTP, False),
    110: (Talk.POP3, False),
    143: (Talk.IMAP, False),
    465: (Talk.SMTP, True),
    587: (Talk.SMTP, False),
    993: (Talk.IMAP, True),
    995: (Talk.POP3, True),
    2110: (Talk.POP3, False),
    2465: (Talk.SMTP, True),
    2525: (Talk.SMTP, False),
    2587: (Talk.SMTP, False),
    2995: (Talk.POP3, True),
}
"""What is spoken where, and whether TLS begins with the first octet; our own unprivileged ports as well."""

Remembered = Callable[[str], Demand]
"""What the downgrade memory demands of a domain."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: the server, how to check it, how long to wait.  ``domain``: whose mail it takes, "" to find out."""

    target: Target
    trust: Trust
    credential: Credential | None = None
    domain: str = ""
    limits: Limits = field(default_factory=Limits)
    resume: bool = False


@click.command()
@click.argument("where", metavar="[HOST[:PORT]|unix:PATH]", required=False)
@click.option(
    "--starttls",
    type=click.Choice([talk.value for talk in Talk if talk is not Talk.NOTHING]),
    help="What is spoken until TLS begins. [default: by the port; without one there TLS is begun at once]",
)
@click.option("--servername", metavar="NAME", help="The name to ask for and to verify. [default: HOST; ours]")
@click.option("--domain", metavar="NAME", help="The domain whose mail HOST takes. [default: found by its MX]")
@click.option(
    "--from",
    "sender",
    metavar="NAME|ADDRESS",
    help="What to call ourselves in EHLO; an address is tried with MAIL FROM inside TLS.",
)
@click.option("--ca", metavar="FILE|DIR", type=click.Path(path_type=Path), help="Trust these CAs only.")
@click.option("--cert", metavar="FILE", type=click.Path(path_type=Path), help="A client certificate to show.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="Its private key. [default: in --cert]")
@click.option("--resume", is_flag=True, help="Connect twice, and tell whether the TLS session is resumed.")
@click.option("--showcerts", is_flag=True, help="Print the certificates as PEM, too.")
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 600), default=20.0, help="For each step. [default: 20]"
)
@click.option("--self", "own", is_flag=True, help="Try every own listener with every own name instead.")
@probe_self.listener_options
@click.option("--json", "as_json_", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def probe(
    common: Common,
    /,
    where: str | None,
    starttls: str | None,
    servername: str | None,
    domain: str | None,
    sender: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    resume: bool,
    showcerts: bool,
    timeout: float,
    own: bool,
    as_json_: bool,
    **listeners: Any,
) -> int:
    """See what a server's TLS is worth.

    Greets, begins TLS, and tells everything: the dialogue, version and cipher, the certificates, every finding, DANE
    and MTA-STS, and whether our relay would deliver there. Nothing is changed.

    Exit status: 0 the server is verified; 3 TLS, but not verified or less than is demanded; 4 no TLS; 5 the handshake
    failed; 6 the protocol was broken, perhaps an attack; 7 not reached. (1: mailsvc failed, 2: wrong usage.)
    """
    limits = Limits(timeout, timeout, timeout, timeout)
    if own:
        if where or starttls or servername or domain or sender or ca or cert or key or resume or showcerts:
            raise click.UsageError("--self finds out by itself where to go; give it the options of the listeners only")
        return probe_self.tried(common, listeners, limits, run, as_json=as_json_)
    if where is None:
        raise click.UsageError("give HOST[:PORT], unix:PATH, or --self")
    if any(listeners.values()):
        raise click.UsageError("the options of the listeners go with --self")
    if key is not None and cert is None:
        raise click.UsageError("--key goes with --cert")
    helo, mail_from = _sender(common, sender)
    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        if not path or "\0" in path:
            raise click.UsageError("give the path of a UNIX socket: unix:/run/dovecot/lmtp")
        name = _name(servername or common.in_force().configuration.hostname)
        target = Target("", 0, Talk(starttls or Talk.LMTP.value), False, name, helo, mail_from, path)
    else:
        host, port = _place(where)
        talk, at_once = _spoken(port, starttls)
        target = Target(host, port or talk.port, talk, at_once, _name(servername or host), helo, mail_from)
    plan = Plan(
        target,
        Trust(_roots(ca)),
        None if cert is None else _credential(cert, key or cert),
        _name(domain) if domain else "",
        limits,
        resume,
    )
    remembered = _memory(common)
    report = run(lambda reactor: probed(plan, reactor, SystemResolver(reactor), remembered))
    if as_json_:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        for line in lines(report, show_pem=showcerts):
            click.echo(line)
    return report.conclusion.outcome.value


async def probed(
    plan: Plan,
    reactor: Any,
    resolver: Resolver,
    remembered: Remembered = lambda domain: NOTHING_REMEMBERED,
    *,
    connect: Connect | None = None,
) -> Report:
    """Do it.  ``connect`` stands in for the network where a policy is fetched.

    Raises MailsvcError for mistakes of ours: roots that cannot be read, a certificate that OpenSSL does not take.
    """
    target, started = plan.target, datetime.now(UTC)
    published = await _published(plan, reactor, resolver, remembered, connect)
    try:
        client = ClientTLS(
            ServerPolicy(Level.ENCRYPTED, plan.trust, plan.credential),
            sessions=SessionStore(lambda: datetime.now(UTC)) if plan.resume else None,
            staples=True,
        )
    except SSL.Error as error:
        raise MailsvcError(f"OpenSSL does not take the client certificate ({error}); give another") from error
    names = (published.domain,) if published.domain else ()
    destination = client.to(
        target.server_name, target.port, host=target.host or None, tlsa=published.dane.records, tlsa_names=names
    )
    endpoint: IStreamClientEndpoint = (
        UNIXClientEndpoint(reactor, target.path) if target.path else HostnameEndpoint(reactor, target.host, target.port)
    )
    seen = await observe(target, endpoint, destination, reactor, plan.limits)
    resumed: bool | None = None
    if plan.resume and target.talk is not Talk.NOTHING and seen.identity is not None and seen.stop is None:
        again = await observe(target, endpoint, destination, reactor, plan.limits)
        resumed = again.identity is not None and again.identity.resumed
    return Report(seen, published, conclude(seen, published), started, resumed)


def run(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the reactor of this process, which then is at its end."""
    from twisted.internet import reactor

    running: Any = reactor
    done: list[T | Failure] = []
    interrupted: list[bool] = []

    def end(result: T | Failure) -> None:
        # When somebody has pressed Ctrl-C the reactor cuts the connections, and what that looks like is no result.
        if not interrupted:
            done.append(result)
            running.stop()

    def begin() -> None:
        running.addSystemEventTrigger("before", "shutdown", interrupted.append, True)
        Deferred.fromCoroutine(work(running)).addBoth(end)

    running.callWhenRunning(begin)
    running.run()
    if not done:
        raise click.Abort
    if isinstance(done[0], Failure):
        done[0].raiseException()
    result: Any = done[0]
    return result  # type: ignore[no-any-return]


async def _published(
    plan: Plan, reactor: Any, resolver: Resolver, remembered: Remembered, connect: Connect | None
) -> Published:
    target = plan.target
    host = target.server_name
    if target.path:
        remark = "not looked up: a socket of this machine is in no DNS"
        return Published("", DaneFacts(remark=remark), StsFacts(remark=remark), Demand(Level.PLAIN, "not looked at"))
    if "." not in host or _is_address(host):
        remark = f"not looked up: {host} is no name of the public DNS"
        memory = remembered(plan.domain) if plan.domain else Demand(Level.PLAIN, "not looked at: no domain is known")
        return Published(plan.domain, DaneFacts(remark=remark), StsFacts(remark=remark), memory)
    dane = await dane_facts(host, target.port, resolver)
    if target.talk not in (Talk.SMTP, Talk.LMTP):
        return Published(dane=dane)
    domain = await mail_domain(host, resolver, named=plan.domain)
    if domain is None:
        remark = "not looked at: no MX record that was found names this host; --domain says whose mail it takes"
        return Published("", dane, StsFacts(remark=remark), Demand(Level.PLAIN, remark))
    if dane.records and not domain.authentic:
        # RFC 7672 section 2.2.1: whoever can forge the MX can name a host of his own.
        dane = DaneFacts(dane.place, remark=f"TLSA records at {dane.place} do not count: {domain.doubt}")
    fetching = ClientTLS(ServerPolicy(Level.NAME))
    sts = await sts_facts(
        domain.name, resolver, fetching, reactor, connect=connect, seconds=min(plan.limits.connect, 20.0)
    )
    return Published(domain.name, dane, sts, remembered(domain.name))


def _memory(common: Common) -> Remembered:
    database, seconds = common.database, common.memory_days * _DAY

    def remembered(domain: str) -> Demand:
        try:
            with glancing(database, _SCHEMA) as txn:
                if txn is None:
                    return Demand(Level.PLAIN, "nothing is remembered: there is no database yet")
                return demanded(txn, "out", domain, "", time.time(), seconds)
        except MailsvcError as why:
            return Demand(Level.PLAIN, f"not looked at: {why}")

    return remembered


def _place(where: str) -> tuple[str, int | None]:
    """HOST, HOST:PORT, an IPv6 address, or [ADDRESS]:PORT."""
    text, port = where.strip(), ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host = text
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise click.UsageError(f"{port!r} is no port: give a number from 1 to 65535")
    return _name(host), int(port) if port else None


def _name(host: str) -> str:
    if _is_address(host):
        return host
    name = ascii_host(host)
    if name is None or name.startswith("*"):
        raise click.UsageError(f"{host!r} is no host name and no IP address")
    return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _spoken(port: int | None, starttls: str | None) -> tuple[Talk, bool]:
    if starttls is not None:
        return Talk(starttls), False
    return _PORTS.get(port or 25, (Talk.NOTHING, True))


def _sender(common: Common, sender: str | None) -> tuple[str, str]:
    """What to say in EHLO, and the address for MAIL FROM."""
    if sender is not None and "@" not in sender:
        return _name(sender), ""
    hostname = common.in_force().configuration.hostname
    if sender is None:
        return hostname, ""
    try:
        address = str(parse_address(sender))
    except AddressError as error:
        raise click.UsageError(f"--from: {error}") from error
    if not address.isascii():
        raise click.UsageError("--from: give an address in ASCII; a probe does not say SMTPUTF8")
    return hostname, address


def _roots(ca: Path | None) -> Roots:
    if ca is None:
        return SystemRoots()
    return RootsFolder(ca) if ca.is_dir() else RootsFile(ca)


def _credential(cert: Path, key_file: Path) -> Credential:
    chain, findings = read_chain(read(cert))
    key, more = read_key(
        read(key_file), passphrase_source(os.environ), cure="say in MAILSVC_KEY_PASSPHRASE_FILE which file has it"
    )
    errors = [str(each) for each in (*findings, *more) if each.severity == "error"]
    if errors or key is None:
        raise MailsvcError("\n".join(errors))
    try:
        return make_credential(str(cert), chain, key, (cert, key_file))
    except ValueError as error:
        raise MailsvcError(f"{cert}: {error}; give the two that were made together") from error
