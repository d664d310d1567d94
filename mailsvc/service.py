"""The composition root: the one page where all packages meet (DESIGN section 3).

`make_service` turns a `Configuration` into a `MailService`: the database, the login, one shared TLS object, the
factories, a listener for each endpoint.  Whoever embeds mailsvc can take it whole, or read here how the parts fit and
put together others.

The hardest idea is the order of things.  Start: settings and certificates are judged before twistd goes into the
background; ports are bound while we may still be root; the database is opened as the user that we stay, and only then
does the reactor run.  Stop: no new connections, then the sessions end, then what they wrote is committed, then the
database closes; each waits for the one before, the sessions not longer than ``timeouts.shutdown``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from twisted.application.service import MultiService
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from mailsvc import metrics
from mailsvc.accounts.authenticator import Authenticator
from mailsvc.accounts.certificates import CertificateOwners
from mailsvc.accounts.login import PasswordChecker
from mailsvc.accounts.proofs import ProofChecker
from mailsvc.accounts.realm import Account
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
from mailsvc.gate.blocklists import blocklist
from mailsvc.gate.bodies import Bodies
from mailsvc.gate.lookup import Blocklists, system_resolver
from mailsvc.gate.manners import Actions
from mailsvc.gate.places import Places, Shares
from mailsvc.gate.places import Trusted as TrustedNetworks
from mailsvc.gate.shortage import Shortage
from mailsvc.gate.watch import Policy, Watch
from mailsvc.hints import first_steps
from mailsvc.journal import Journal, Keep, Pace
from mailsvc.mail.address import Address
from mailsvc.outgoing import Outgoing, new_trace_id
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.devices import Keeping
from mailsvc.pop3.housekeeping import Housekeeper
from mailsvc.pop3.mailbox import Maildrops
from mailsvc.pop3.rendering import Workarounds
from mailsvc.pop3.rules import Helpers as POP3Helpers
from mailsvc.pop3.rules import Rules as POP3Rules
from mailsvc.pop3.server import POP3Factory
from mailsvc.relay.bounces import Reports
from mailsvc.sasl.scram import ITERATIONS
from mailsvc.smtp.authentication import SaslAuthenticator
from mailsvc.smtp.defaults import NoMemory
from mailsvc.smtp.downgrades import SenderMemory
from mailsvc.smtp.intake import BodyLimits, Intake
from mailsvc.smtp.journal import SMTPJournal
from mailsvc.smtp.machines import RelayClients
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, Mode, lmtp, mx
from mailsvc.smtp.ownership import OwnSenders
from mailsvc.smtp.postmaster import ToPostmaster
from mailsvc.smtp.rules import Helpers
from mailsvc.smtp.rules import Rules as SMTPRules
from mailsvc.smtp.seams import ChannelMemory
from mailsvc.smtp.server import SMTPFactory
from mailsvc.storage.database import Database
from mailsvc.storage.lookups import Lookups
from mailsvc.storage.opening import problems_of
from mailsvc.storage.senders import is_name_of
from mailsvc.surroundings import descriptors
from mailsvc.tls.gate import CredentialSource
from mailsvc.tls.levels import Level
from mailsvc.tls.live import LiveCertificates, certificate_sources
from mailsvc.tls.notices import Notices
from mailsvc.tls.server import ListenerTLS, ServerTLS
from mailsvc.tls.sources import RowSource, load_table
from mailsvc.tls.table import CredentialTable
from mailsvc.tls.trust import LiveTrust, Trusted, TrustSource, trust_source
from mailsvc.wire.conversation import Patience
from mailsvc.wire.proxied import ProxiedFactory
from mailsvc.wire.sessions import Sessions

_log = Logger("mailsvc")

_T = TypeVar("_T")

_DAY = 86400.0

_DESCRIPTORS_OF_A_SESSION = 2
"""Its socket, and the file that a large message moves to."""

_DESCRIPTORS_OF_THE_SERVICE = 100
"""Five connections of the database with three files each, listeners, the log, and what Python needs now and then."""


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
    sessions = Sessions(_affordable(limits.connections, outgoing=configuration.queue.connections), network, places)
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
        daily_recipients=configuration.relay.daily_recipients,
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
    engine = _authenticator(configuration, database, checker, portal, owners, reactor)
    admission = Admission(configuration.pop3.login_delay, configuration.pop3.sessions)
    readers = POP3Helpers(maildrops, engine, admission)
    smtp_journal = SMTPJournal(journal)
    helpers = Helpers(
        intake,
        directory,
        SaslAuthenticator(engine),
        gate=_watch(configuration, reactor, smtp_journal, trusted),
        senders=OwnSenders(lookups),
        machines=RelayClients(database, reactor),
        memory=_memory(configuration, database, reactor),
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
        rules = _smtp_rules(configuration, mode, os.path.dirname(database.name))
        return SMTPFactory(rules, helpers, tls.view(mode.name), reactor, sessions)

    def pop3(name: str, implicit_tls: bool) -> IProtocolFactory:
        rules = _pop3_rules(configuration, name, implicit_tls)
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


def _affordable(connections: int, descriptors: Callable[[int], int] = descriptors, *, outgoing: int = 0) -> int:
    """How many connections there can be without taking the descriptors of the database, the spool and outgoing mail.

    Without this one client could open connections until no message can be stored, for anybody.
    """
    others = _DESCRIPTORS_OF_THE_SERVICE + outgoing
    wanted = connections * _DESCRIPTORS_OF_A_SESSION + others
    affordable = (descriptors(wanted) - others) // _DESCRIPTORS_OF_A_SESSION
    if affordable >= connections:
        return connections
    affordable = max(1, affordable)
    _log.warn(
        "only {affordable} of limits.connections = {connections} are possible: this process may open too few files;"
        " raise its limit to {wanted} (ulimit -n, LimitNOFILE=)",
        affordable=affordable,
        connections=connections,
        wanted=wanted,
    )
    return affordable


def _authenticator(
    configuration: Configuration,
    database: Database,
    checker: PasswordChecker,
    portal: Portal,
    owners: CertificateOwners,
    reactor: Any,
) -> Authenticator:
    """Who is it: the one engine for SMTP, and for POP3's AUTH."""
    proofs = ProofChecker(database, checker.guard, reactor) if configuration.accounts.scram else None

    def acts_as(account: Account, address: Address) -> Deferred[bool]:
        return database.read(is_name_of, account.id, address)

    return Authenticator(portal, proofs=proofs, certificates=owners, acts_as=acts_as)


def _memory(configuration: Configuration, database: Database, reactor: Any) -> ChannelMemory:
    """What is remembered of the TLS of servers that bring mail."""
    downgrade = configuration.downgrade
    if not downgrade.inbound or not downgrade.memory_days:
        return NoMemory()
    return SenderMemory(database, reactor, downgrade.memory_days * _DAY)


def _watch(configuration: Configuration, reactor: Any, journal: SMTPJournal, trusted: TrustedNetworks) -> Watch:
    """Who may bring mail: the gate of the SMTP listeners."""
    gate = configuration.gate
    policy = Policy(
        configuration.hostname,
        trusted,
        unknown_recipients=configuration.limits.unknown_recipients,
        junk_commands=configuration.limits.junk_commands,
        early_talkers=gate.early_talkers,
        greeting_delay=gate.greeting_delay,
        helo=Actions(gate.helo_syntax, gate.helo_own_name, gate.helo_literal),
        threshold=gate.blocklist_threshold,
        refuse_listed=gate.blocklist_action == "refuse",
    )
    lists = [blocklist(text) for text in gate.blocklists]
    if not lists:
        return Watch(policy, reactor, journal.noted)
    resolver = system_resolver(reactor)
    return Watch(policy, reactor, journal.noted, Blocklists(lists, resolver, reactor, seconds=gate.blocklist_seconds))


def _smtp_rules(configuration: Configuration, mode: Mode, spool_folder: str) -> SMTPRules:
    limits, patience = configuration.smtp, configuration.timeouts
    return SMTPRules(
        mode=mode,
        hostname=configuration.hostname,
        body=BodyLimits(
            message_size=limits.message_size,
            header_size=limits.header_size,
            received_fields=limits.received_headers,
            header_fields=limits.header_fields,
            refuse_long_lines=limits.refuse_long_lines,
            in_memory=limits.memory_per_message,
            # Beside the database: the disk that will hold the message anyway, and not a /tmp that is memory.
            folder=spool_folder,
        ),
        patience=Patience(
            command=patience.command,
            body=patience.body_progress,
            unread=patience.body_progress,
            handshake=patience.handshake,
            closing=patience.closing,
        ),
        command_line=limits.command_line,
        auth_line=limits.auth_line,
        recipients=limits.recipients,
        errors=limits.errors,
        messages=limits.messages,
        commands=limits.commands,
        session_seconds=limits.session_seconds,
        hold_seconds=limits.hold_seconds,
        hold_reply=configuration.relay.hold_reply,
    )


def _pop3_rules(configuration: Configuration, name: str, implicit_tls: bool) -> POP3Rules:
    patience = configuration.timeouts
    return POP3Rules(
        name=name,
        implicit_tls=implicit_tls,
        hostname=configuration.hostname,
        patience=Patience(
            command=configuration.pop3.idle_seconds,
            unread=patience.body_progress,
            handshake=patience.handshake,
            closing=patience.closing,
        ),
        command_line=configuration.pop3.command_line,
        auth_line=configuration.pop3.auth_line,
        errors=configuration.pop3.errors,
        commands=configuration.pop3.commands,
        early_commands=configuration.pop3.early_commands,
        greeting=configuration.pop3.greeting,
        implementation=configuration.pop3.implementation,
        language=configuration.pop3.language,
        refuse_utf8=configuration.pop3.refuse_utf8,
    )


class _TLSFactory(TLSMemoryBIOFactory):
    """Implicit TLS around a factory that may turn a connection away, which the stock wrapper does not foresee.

    ``limit``: of connections, None for a factory that has its own.
    """

    limit: int | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.limit is not None and len(self.protocols) >= self.limit:
            return None
        protocol: IProtocol | None = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else self.protocol(self, protocol)


def _inside_tls(
    factory: IProtocolFactory, tls: ListenerTLS, reactor: Any, *, limit: int | None = None
) -> IProtocolFactory:
    made = _TLSFactory(tls, False, factory, reactor)
    made.limit = limit
    return made


@dataclass
class _Listener:
    """One endpoint; ``port`` while it is open."""

    name: str
    description: str
    endpoint: IStreamServerEndpoint
    factory: IProtocolFactory
    port: IListeningPort | None = None


class MailService(MultiService):
    """Everything that `make_service` assembled, as one service.

    ``listeners`` in the order of DESIGN section 8; their ports are open between start and stop.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        database: Database,
        checker: PasswordChecker,
        sessions: Sessions,
        journal: Journal,
        programs: Programs,
        certificates: LiveCertificates,
        trust: LiveTrust,
        housekeeper: Housekeeper,
        outgoing: Outgoing,
        lists: ListKeeper,
    ) -> None:
        super().__init__()
        self.configuration = configuration
        self.database = database
        self.listeners: list[_Listener] = []
        self._reactor = reactor
        self._checker = checker
        self._sessions = sessions
        self._journal = journal
        self._programs = programs
        self._certificates = certificates
        self._trust = trust
        self._housekeeper = housekeeper
        self._outgoing = outgoing
        self._lists = lists
        self._shortage = Shortage(reactor.seconds)

    def listen(self, name: str, endpoints: tuple[str, ...], factory: IProtocolFactory) -> None:
        """Serve ``factory`` on each of these Twisted endpoint strings, from the start on."""
        for description in endpoints:
            proxied = description.startswith("haproxy:")
            endpoint = serverFromString(self._reactor, description.removeprefix("haproxy:"))
            patience = self.configuration.timeouts.handshake
            served = ProxiedFactory(factory, self._reactor, patience) if proxied else factory
            self.listeners.append(_Listener(name, description, endpoint, served))

    def privilegedStartService(self) -> None:
        """Bind every port, while we may still be root; `StartRefused` names all that cannot be had."""
        super().privilegedStartService()
        problems = [problem for listener in self.listeners if (problem := _open(listener)) is not None]
        if problems:
            self._close_ports()
            raise StartRefused(problems)

    def startService(self) -> None:
        """Open the database as the user that we stay, and say what is served once the reactor runs."""
        try:
            self.database.open()
        except StartRefused:
            self._close_ports()
            raise
        super().startService()
        globalLogPublisher.addObserver(self._shortage)
        self._checker.start()
        self._journal.start()
        self._housekeeper.start()
        self._outgoing.start()
        self._lists.start()
        self._reactor.callWhenRunning(self._announce)
        self._reactor.callWhenRunning(self._certificates.start)
        self._reactor.callWhenRunning(self._trust.start)

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when the database is closed."""
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """While stopping: wait for no session any more."""
        self._sessions.abort()
        self._programs.stop()
        self._outgoing.hurry()

    def reload(self) -> None:
        """Look at the certificates now, ours and the CAs of our clients."""
        self._certificates.reloader.reload()
        self._trust.reload()

    async def _stop(self) -> None:
        await self._close_ports()
        # First those who wait for the answer to a login: a wrong one is held back longer than we have time.
        logins_ended = self._checker.stop()
        emptied = self._sessions.shut_down()
        deadline = self._reactor.callLater(self.configuration.timeouts.shutdown, self.hurry)
        await emptied
        if deadline.active():
            deadline.cancel()
        await logins_ended
        await self._certificates.stop()
        await self._trust.stop()
        await self._housekeeper.stop()
        await self._lists.stop()
        # Behind the sessions, of which some wait for the first attempt of what they have submitted.
        await self._outgoing.stop()
        # What the last sessions did is told too.
        await self._journal.stop()
        await self.database.close()
        await super().stopService()
        globalLogPublisher.removeObserver(self._shortage)

    def _close_ports(self) -> Deferred[Any]:
        closing = []
        for listener in self.listeners:
            port, listener.port = listener.port, None
            if port is not None:
                closing.append(maybeDeferred(port.stopListening))
        return gatherResults(closing)

    def _announce(self) -> None:
        for listener in self.listeners:
            if listener.port is not None:
                _log.info("{name:<12} listening on {where}", name=listener.name, where=_where(listener.port.getHost()))
        _log.info("mail is kept in {database}", database=self.database.name)
        for line in first_steps(self.configuration, self.database.name, self._ports()):
            _log.info("{line}", line=line)

    def _ports(self) -> dict[str, tuple[str, int]]:
        """(host, port) of the first TCP listener of each name."""
        ports: dict[str, tuple[str, int]] = {}
        for listener in self.listeners:
            address: Any = listener.port.getHost() if listener.port is not None else None
            if hasattr(address, "port"):
                ports.setdefault(listener.name, (address.host, address.port))
        return ports


def _open(listener: _Listener) -> str | None:
    """Open the listener's port; return why it cannot be."""
    outcome: list[IListeningPort | Failure] = []
    listener.endpoint.listen(listener.factory).addBoth(outcome.append)
    if not outcome:
        return f"{listener.name}: {listener.description} did not open at once; use an endpoint that does (tcp:, unix:)"
    [result] = outcome
    if not isinstance(result, Failure):
        listener.port = result
        return None
    error = result.value
    reason = error.socketError if isinstance(error, CannotListenError) else error
    words = (getattr(reason, "strerror", None) or str(reason)).lower()
    return (
        f"cannot listen on {listener.description} for {listener.name}: {words};"
        f" stop the program that uses it, or choose another endpoint with --{listener.name}"
    )


def _where(address: Any) -> str:
    if hasattr(address, "port"):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    name = getattr(address, "name", None)
    return os.fsdecode(name) if name else str(address)
