"""`mailsvc probe --self`: every own listener, with every name that our certificates speak for, as a strict client.

What `mailsvc doctor` compares octet by octet is here verified as others verify it: chain, names, dates.  A certificate
of the private CA in the folder of certificates is checked against that CA, any other against what this machine trusts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from twisted.internet.endpoints import HostnameEndpoint

from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import issued_by, printable, read_chain
from mailsvc.certkit.places import authority_places
from mailsvc.cli.listening import NotTried, place_of
from mailsvc.cli.main import Common
from mailsvc.config import Configuration, load
from mailsvc.errors import MailsvcError
from mailsvc.probe.conclusion import Published, conclude
from mailsvc.probe.observation import Observation, Outcome, Talk, Target
from mailsvc.probe.session import Limits, observe
from mailsvc.surroundings import surroundings
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.credential import Credential
from mailsvc.tls.levels import Level
from mailsvc.tls.live import certificate_sources
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.roots import Roots, RootsFile, SystemRoots, Trust
from mailsvc.tls.sources import read_sources
from mailsvc.tls.table import CredentialTable, make_table

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Run = Callable[[Callable[[Any], Coroutine[Any, Any, "list[Tried]"]]], "list[Tried]"]

LISTENERS: dict[str, tuple[Talk, bool]] = {
    "smtp": (Talk.SMTP, False),
    "submission": (Talk.SMTP, False),
    "submissions": (Talk.SMTP, True),
    "pop3": (Talk.POP3, False),
    "pop3s": (Talk.POP3, True),
}
"""What each listener with TLS speaks, and whether TLS begins with the first octet."""

_CERTIFICATE_REQUIRED = "certificate required"
"""OpenSSL's words for the alert (RFC 8446 section 6.2)."""

MOST_NAMES = 200
"""Names that are tried at one listener; what is left out is said."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One handshake: the listener, where, for which name, and what came of it; no outcome when it was not tried."""

    listener: str
    place: str
    name: str
    outcome: Outcome | None
    text: str


def listener_options(command: F) -> F:
    """The options of `twistd mailsvc` that say where our listeners and certificates are."""
    for name in reversed(LISTENERS):
        command = click.option(
            f"--{name}", metavar="ENDPOINT", multiple=True, help="As for `twistd mailsvc`. (--self)"
        )(command)
    command = click.option("--hostname", metavar="NAME", help="As for `twistd mailsvc`. (--self)")(command)
    return click.option("--certs", metavar="DIR", help="As for `twistd mailsvc`. (--self)")(command)


def tried(common: Common, given: Mapping[str, Any], limits: Limits, run: Run, *, as_json: bool) -> int:
    """Try all of them, say what came of it, and return the exit status: the greatest of theirs."""
    configuration = _configuration(common, given)
    table = _table(configuration)
    found = run(lambda reactor: all_tried(configuration, table, limits, reactor))
    if as_json:
        shown = [
            {
                "listener": each.listener,
                "place": each.place,
                "name": each.name or None,
                "outcome": each.outcome.name.lower() if each.outcome else None,
                "text": each.text,
            }
            for each in found
        ]
        click.echo(json.dumps({"ok": status_of(found) == 0, "tried": shown}, indent=2))
    else:
        for each in found:
            word = "note" if each.outcome is None else "ok" if each.outcome is Outcome.VERIFIED else "NO"
            place = f"{each.listener} {each.place}{f', {each.name}' if each.name else ''}"
            click.echo(printable(f"{word:<5} {place}: {each.text}"))
        good = sum(each.outcome is Outcome.VERIFIED for each in found)
        click.echo(f"{good} of {sum(each.outcome is not None for each in found)} are verified by a strict client.")
    return status_of(found)


def status_of(found: list[Tried]) -> int:
    """0 when something was tried and all of it is verified."""
    return max((each.outcome.value for each in found if each.outcome is not None), default=Outcome.UNREACHED.value)


async def all_tried(configuration: Configuration, table: CredentialTable, limits: Limits, reactor: Any) -> list[Tried]:
    """One handshake for each listener and name, one after the other."""
    found = []
    for listener, (talk, at_once) in LISTENERS.items():
        for endpoint in getattr(configuration.listen, listener):
            try:
                place = place_of(endpoint)
            except NotTried as why:
                found.append(Tried(listener, endpoint, "", None, f"it was not tried: {why}"))
                continue
            if not isinstance(place.address, tuple):
                found.append(Tried(listener, str(place), "", None, "it was not tried: it is a UNIX socket"))
                continue
            host, port = place.address
            names = _names(table)
            if len(names) > MOST_NAMES:
                text = f"{len(names) - MOST_NAMES} further names were not tried; `mailsvc probe` tries each"
                found.append(Tried(listener, str(place), "", None, text))
            for name in names[:MOST_NAMES]:
                trust = Trust(_roots(configuration, table.lookup(name)))
                target = Target(host, port, talk, at_once, name, configuration.hostname)
                destination = ClientTLS(ServerPolicy(Level.NAME, trust)).to(name, port, host=host)
                seen = await observe(target, HostnameEndpoint(reactor, host, port), destination, reactor, limits)
                found.append(Tried(listener, str(place), name, *worth(seen)))
                if found[-1].outcome is Outcome.UNREACHED:
                    break  # it will not be there for another name either
    return found


def worth(seen: Observation) -> tuple[Outcome, str]:
    """What a listener of ours is worth to a strict client, in a word and in a sentence."""
    conclusion = conclude(seen, Published())
    if seen.identity is None:
        return conclusion.outcome, conclusion.sentence
    text = f"{seen.identity.version}, {seen.identity.cipher}; {seen.identity.level.text}"
    if seen.stop is None:
        return conclusion.outcome, text
    if seen.identity.verdict.met and _CERTIFICATE_REQUIRED in seen.stop.text:
        # Its own certificate is what was asked about; in TLS 1.3 it is shown before ours is missed.
        return Outcome.VERIFIED, f"{text}; then it demands a client certificate, as it is set to"
    return conclusion.outcome, f"{text}; then: {conclusion.sentence}"


def _configuration(common: Common, given: Mapping[str, Any]) -> Configuration:
    options: dict[str, object] = {
        "certs": given["certs"],
        "hostname": given["hostname"],
        "database": common.database_option,
    }
    options |= {f"listen.{name}": list(given[name]) for name in LISTENERS if given[name]}
    return load(common.file, options, surroundings(), os.environ).configuration


def _table(configuration: Configuration) -> CredentialTable:
    report = read_sources(certificate_sources(configuration, os.environ), configuration.hostname, datetime.now(UTC))
    if not report.credentials:
        raise MailsvcError("\n".join(map(str, report.errors)) or "there are no certificates; see `mailsvc doctor`")
    return make_table(report.credentials, configuration.hostname)


def _names(table: CredentialTable) -> tuple[str, ...]:
    """Every name that a client may ask for; a wildcard stands for one of those that it covers."""
    names = [name.replace("*", "any", 1) if name.startswith("*.") else name for name in table.by_name]
    # Who goes to an address asks for no name.
    names += [str(address) for address in table.lookup(None).names.addresses]
    return tuple(dict.fromkeys(names))


def _roots(configuration: Configuration, credential: Credential) -> Roots:
    authority = authority_places(configuration.certs).certificate
    for each in _authority(authority):
        top = credential.chain[-1]
        if top == each or issued_by(top, each):
            return RootsFile(authority)
    return SystemRoots()


def _authority(path: Any) -> Iterator[Any]:
    if path.exists():
        chain, _ = read_chain(read(path))
        yield from chain
