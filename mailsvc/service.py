"""The composition root: the one page where all packages meet (DESIGN section 3).

`make_service` turns a `Configuration` into a `MailService`: the database, the login, one shared TLS object, the
factories, a listener for each endpoint.  Whoever embeds mailsvc can take it whole, or read here how the parts fit and
put together others.

What a setting becomes is `mailsvc.parts`; in which order things start and stop is `mailsvc.lifecycle`.  The hardest
idea is that everything wrong is told at once: settings and certificates are judged here, before twistd goes into the
background and before a port is bound, and `StartRefused` has a sentence for each mistake.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from mailsvc import metrics, parts
from mailsvc.accounts.certificates import CertificateOwners
from mailsvc.accounts.login import PasswordChecker
from mailsvc.accounts.realm import portal as make_portal
from mailsvc.accounts.throttle import network
from mailsvc.backup import offering
from mailsvc.backup.judging import BackupRecipients
from mailsvc.backup.keeping import ListKeeper
from mailsvc.backup.keys import Keys
from mailsvc.config import Configuration
from mailsvc.config.endpoint import is_private, port_of
from mailsvc.directory.lookup import TableDirectory
from mailsvc.directory.running import Programs
from mailsvc.errors import StartRefused
from mailsvc.gate.bodies import Bodies
from mailsvc.gate.places import Places, Shares
from mailsvc.gate.places import Trusted as TrustedNetworks
from mailsvc.journal import Journal, Keep, Pace
from mailsvc.lifecycle import MailService
from mailsvc.outgoing import Outgoing, new_trace_id
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.devices import Keeping
from mailsvc.pop3.housekeeping import Housekeeper
from mailsvc.pop3.mailbox import Maildrops
from mailsvc.pop3.rendering import Workarounds
from mailsvc.pop3.rules import Helpers as POP3Helpers
from mailsvc.pop3.server import POP3Factory
from mailsvc.relay.bounces import Reports
from mailsvc.sasl.scram import ITERATIONS
from mailsvc.smtp.authentication import SaslAuthenticator
from mailsvc.smtp.forwarding import Daily
from mailsvc.smtp.intake import Intake
from mailsvc.smtp.journal import SMTPJournal
from mailsvc.smtp.machines import RelayClients
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, Mode, lmtp, mx
from mailsvc.smtp.ownership import OwnSenders
from mailsvc.smtp.postmaster import ToPostmaster
from mailsvc.smtp.rules import Helpers
from mailsvc.smtp.server import SMTPFactory
from mailsvc.storage.database import Database
from mailsvc.storage.lookups import Lookups
from mailsvc.storage.opening import problems_of
from mailsvc.tls.gate import CredentialSource
from mailsvc.tls.levels import Level
from mailsvc.tls.live import LiveCertificates, certificate_sources
from mailsvc.tls.notices import Notices
from mailsvc.tls.server import ListenerTLS, ServerTLS
from mailsvc.tls.sources import RowSource, load_table
from mailsvc.tls.table import CredentialTable
from mailsvc.tls.trust import LiveTrust, Trusted, TrustSource, trust_source
from mailsvc.wire.implicit import ImplicitTLSFactory
from mailsvc.wire.sessions import Sessions

_log = Logger("mailsvc")

_T = TypeVar("_T")


def make_service(
    configuration: Configuration,
    reactor: Any,
    *,
    environ: Mapping[str, str] = os.environ,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    more_sources: Sequence[CredentialSource] = (),
) -> MailService:
    """The whole service for ``configuration``, not yet listening.

    ``more_sources``: where certificates come from besides the folder and the database, and after them.

    Raises `StartRefused` with everything that is wrong with the certificates and the database, at once.
    """
    problems: list[str] = []
    table: CredentialTable | None = None
    sources = (*certificate_sources(configuration, environ), *more_sources)
    obstacles = problems_of(configuration.database)
    try:
        table = load_table(
            # What is wrong with the database is told once, and not by everybody who would read it.
            [each for each in sources if not (obstacles and isinstance(each, RowSource))],
            configuration.hostname,
            now(),
            warn=lambda finding: _log.warn("{finding}", finding=str(finding)),
        )
    except StartRefused as refused:
        problems += refused.problems
    clients, trusted = trust_source(configuration), Trusted()
    try:
        trusted = clients.read()
    except StartRefused as refused:
        problems += refused.problems
    problems += _lmtp_problems(configuration.listen.lmtp)
    problems += [
        f"metrics have no login, so they are not served on {endpoint}; give --metrics a loopback address"
        " (tcp:9464:interface=127.0.0.1) or a UNIX socket"
        for endpoint in configuration.listen.metrics
        if not is_private(endpoint)
    ]
    problems += obstacles
    if problems or table is None:
        raise StartRefused(problems)
    return _assemble(configuration, reactor, table, sources, clients, trusted, environ)


def _lmtp_problems(endpoints: tuple[str, ...]) -> list[str]:
    # RFC 2033 section 5: what comes to port 25 must not take LMTP for SMTP.
    return [
        f"LMTP cannot be served on port 25 ({endpoint}); give --lmtp another port, 24 for example"
        for endpoint in endpoints
        if port_of(endpoint) == 25
    ]


def _assemble(
    configuration: Configuration,
    reactor: Any,
    table: CredentialTable,
    sources: Sequence[CredentialSource],
    clients: TrustSource,
    trusted_clients: Trusted,
    environ: Mapping[str, str],
) -> MailService:
    database = Database(configuration.database, reactor)
    checker = PasswordChecker(
        database,
        reactor,
        remember=configuration.accounts.remember_login,
        threads=configuration.accounts.hash_threads,
        verifiers=ITERATIONS if configuration.accounts.scram else 0,
    )
    portal = make_portal(checker)
    tls = ServerTLS(table, trusted_clients.policies)
    trust = LiveTrust(
        clients,
        trusted_clients,
        tls,
        reactor,
        lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
        look=configuration.certificates.look_seconds,
    )
    limits = configuration.limits
    trusted = TrustedNetworks(limits.trusted)
    places = Places(Shares(limits.per_address, limits.per_network, trusted))
    sessions = Sessions(parts.affordable(limits.connections, outgoing=configuration.queue.connections), network, places)
    delivery = configuration.delivery
    programs = Programs(
        reactor, seconds=delivery.pipe_seconds, at_once=delivery.pipes_at_once, output=delivery.pipe_output
    )
    outgoing = Outgoing(
        configuration, reactor, database, Reports(configuration.hostname, new_trace_id), environ=environ
    )
    intake = Intake(
        database,
        reactor,
        configuration.hostname,
        programs=programs,
        daily=Daily(configuration.relay.daily_recipients, configuration.relay.client_daily_recipients),
        outward=outgoing.queue,
    )
    pop = configuration.pop3
    maildrops = Maildrops(
        database,
        reactor,
        Keeping(pop.device_days, pop.expire_days, pop.undelete_days),
        Workarounds(pop.replace_nuls, pop.end_of_header),
    )
    kept = configuration.events
    journal = Journal(
        database,
        reactor,
        keep=Keep(kept.keep_days, kept.keep_rows),
        pace=Pace(buffer=kept.buffer),
        log_sessions=configuration.log.sessions,
    )
    lookups = Lookups(database, reactor)

    def in_thread(work: Callable[[], _T]) -> Deferred[_T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), work)

    keys = Keys(reactor, in_thread)
    directory = TableDirectory(
        lookups,
        reactor,
        configuration.hostname,
        programs=delivery.pipes,
        backups=BackupRecipients(database, keys),
    )
    owners = CertificateOwners(database, reactor, lambda: trust.vouching)
    engine = parts.authenticator(configuration, database, checker, portal, owners, reactor)
    admission = Admission(configuration.pop3.login_delay, configuration.pop3.sessions)
    readers = POP3Helpers(maildrops, engine, admission)
    smtp_journal = SMTPJournal(journal)
    helpers = Helpers(
        intake,
        directory,
        SaslAuthenticator(engine),
        gate=parts.watch(configuration, reactor, smtp_journal, trusted),
        senders=OwnSenders(lookups, reactor),
        machines=RelayClients(database, reactor),
        memory=parts.memory(configuration, database, reactor),
        journal=smtp_journal,
        bodies=Bodies(limits.body_memory, limits.body_total),
    )
    postmaster = ToPostmaster(intake, directory, configuration.hostname)
    notices = Notices(journal, database, postmaster, configuration.hostname, reactor)
    certificates = LiveCertificates(configuration, sources, tls, notices, reactor)
    housekeeper = Housekeeper(database, reactor, maildrops)
    lists = ListKeeper(
        database,
        reactor,
        lambda primary: outgoing.means.tls(primary, Level.NAME),
        in_thread,
        every=configuration.backup.fetch_seconds,
    )
    service = MailService(
        configuration,
        reactor,
        database,
        checker,
        sessions,
        journal,
        programs,
        certificates,
        trust,
        housekeeper,
        outgoing,
        lists,
    )

    def smtp(mode: Mode) -> IProtocolFactory:
        rules = parts.smtp_rules(configuration, mode, os.path.dirname(database.name))
        return SMTPFactory(rules, helpers, tls.view(mode.name), reactor, sessions)

    def pop3(name: str, implicit_tls: bool) -> IProtocolFactory:
        rules = parts.pop3_rules(configuration, name, implicit_tls)
        return POP3Factory(rules, readers, tls.view(name), reactor, sessions, journal)

    listen = configuration.listen
    service.listen("smtp", listen.smtp, smtp(mx(requires_tls=configuration.tls == "required")))
    service.listen("submission", listen.submission, smtp(SUBMISSION))
    service.listen("submissions", listen.submissions, _inside_tls(smtp(SUBMISSIONS), tls.view("submissions"), reactor))
    for endpoint in listen.lmtp:
        service.listen("lmtp", (endpoint,), smtp(lmtp(requires_tls=not is_private(endpoint))))
    service.listen("pop3", listen.pop3, pop3("pop3", False))
    service.listen("pop3s", listen.pop3s, _inside_tls(pop3("pop3s", True), tls.view("pop3s"), reactor))
    numbers = metrics.Numbers(journal.counts, lambda: len(sessions), certificates.reloader)
    service.listen("metrics", listen.metrics, metrics.site(numbers, reactor))
    offered = offering.Lists(
        database, reactor, keys, in_thread, hostname=configuration.hostname, programs=configuration.delivery.pipes
    )
    site = offering.site(offered, reactor)
    recipients = _inside_tls(site, tls.view("recipients"), reactor, limit=offering.CONNECTIONS)
    service.listen("recipients", listen.recipients, recipients)
    return service


def _inside_tls(
    factory: IProtocolFactory, tls: ListenerTLS, reactor: Any, *, limit: int | None = None
) -> IProtocolFactory:
    made = ImplicitTLSFactory(tls, False, factory, reactor)
    made.limit = limit
    return made
