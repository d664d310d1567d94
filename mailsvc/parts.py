"""Settings turned into the parts and rules that they are meant for, one function for each part.

Split from `mailsvc.service`, which puts the parts together: here is what a setting becomes, there is who knows whom.
Nothing here starts anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailsvc.accounts.authenticator import Authenticator
from mailsvc.accounts.certificates import CertificateOwners
from mailsvc.accounts.login import PasswordChecker
from mailsvc.accounts.proofs import ProofChecker
from mailsvc.accounts.realm import Account
from mailsvc.config import Configuration
from mailsvc.gate.blocklists import blocklist
from mailsvc.gate.lookup import Blocklists, system_resolver
from mailsvc.gate.manners import Actions
from mailsvc.gate.places import Trusted
from mailsvc.gate.watch import Policy, Watch
from mailsvc.mail.address import Address
from mailsvc.pop3.rules import Rules as POP3Rules
from mailsvc.smtp.defaults import NoMemory
from mailsvc.smtp.downgrades import SenderMemory
from mailsvc.smtp.journal import SMTPJournal
from mailsvc.smtp.modes import Mode
from mailsvc.smtp.reception import BodyLimits
from mailsvc.smtp.rules import Rules as SMTPRules
from mailsvc.smtp.seams import ChannelMemory
from mailsvc.storage.database import Database
from mailsvc.storage.senders import is_name_of
from mailsvc.surroundings import descriptors
from mailsvc.wire.conversation import Patience

_log = Logger("mailsvc")

_DAY = 86400.0

_DESCRIPTORS_OF_A_SESSION = 2
"""Its socket, and the file that a large message moves to."""

_DESCRIPTORS_OF_THE_SERVICE = 100
"""Five connections of the database with three files each, listeners, the log, and what Python needs now and then."""


def affordable(connections: int, descriptors: Callable[[int], int] = descriptors, *, outgoing: int = 0) -> int:
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


def authenticator(
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


def memory(configuration: Configuration, database: Database, reactor: Any) -> ChannelMemory:
    """What is remembered of the TLS of servers that bring mail."""
    downgrade = configuration.downgrade
    if not downgrade.inbound or not downgrade.memory_days:
        return NoMemory()
    return SenderMemory(database, reactor, downgrade.memory_days * _DAY)


def watch(configuration: Configuration, reactor: Any, journal: SMTPJournal, trusted: Trusted) -> Watch:
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


def smtp_rules(configuration: Configuration, mode: Mode, spool_folder: str) -> SMTPRules:
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


def pop3_rules(configuration: Configuration, name: str, implicit_tls: bool) -> POP3Rules:
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
