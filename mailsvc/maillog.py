"""One function per thing that is worth a line in the log (promise H: never a secret, promise I: never raw octets).

The functions take values and give ``twisted.logger`` events with fields, so that a line can be read by a person and
its fields by a program (``twistd --logger`` with a JSON observer).  Whatever a peer chose is escaped by `shown` first:
a client must not be able to write lines of its own, or colours, into the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailsvc.mail.channel import TLSFacts, certificate_words

log = Logger("mailsvc")


def shown(text: str, limit: int = 200) -> str:
    """``text`` for the log: printable ASCII, the rest escaped, not endless."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."


def channel_words(tls: TLSFacts | None) -> str:
    """The channel in a few words, with the host name that the client asked for (SNI)."""
    if tls is None:
        return "in clear"
    return f"{tls.version} to {tls.server_name}" if tls.server_name else f"{tls.version}, no name asked for"


def connected(listener: str, peer: str) -> None:
    """A client connected."""
    log.debug("{listener}: connection from {peer}", listener=listener, peer=peer)


def refused_connection(listener: str, peer: str, why: str) -> None:
    """A client was turned away before its first word."""
    log.warn("{listener}: connection from {peer} refused: {why}", listener=listener, peer=peer, why=why)


def secured(listener: str, peer: str, tls: TLSFacts) -> None:
    """A TLS handshake was completed."""
    log.debug(
        "{listener}: {peer} uses {version} with {cipher}, name asked for: {name}, client certificate: {certificate}",
        listener=listener,
        peer=peer,
        version=tls.version,
        cipher=tls.cipher,
        name=tls.server_name or "none",
        certificate=certificate_words(tls.client),
    )


def disconnected(listener: str, peer: str, why: str) -> None:
    """A connection ended."""
    log.debug("{listener}: {peer} disconnected: {why}", listener=listener, peer=peer, why=shown(why))


def injection(listener: str, peer: str, octets: int) -> None:
    """Something stood behind STARTTLS in clear."""
    log.warn(
        "{listener}: {peer} sent {octets} octets in clear behind STARTTLS; dropped, and the connection closed",
        listener=listener,
        peer=peer,
        octets=octets,
    )


def logged_in(listener: str, peer: str, account: str, tls: TLSFacts | None) -> None:
    """A login succeeded."""
    log.info(
        "{listener}: {account} logged in from {peer}, {channel}",
        listener=listener,
        account=shown(account),
        peer=peer,
        channel=channel_words(tls),
    )


def login_failed(listener: str, peer: str, username: str) -> None:
    """A login was refused; the log does not say why either, so that it can be shown to others."""
    log.info(
        "{listener}: login refused for {username} from {peer}", listener=listener, username=shown(username), peer=peer
    )


def refused(listener: str, peer: str, what: str, why: str) -> None:
    """A command or a message was refused."""
    log.info(
        "{listener}: {what} from {peer} refused: {why}",
        listener=listener,
        what=shown(what),
        peer=peer,
        why=shown(why),
    )


def noted(listener: str, peer: str, text: str) -> None:
    """Something was found out about a client."""
    log.info("{listener}: {peer}: {text}", listener=listener, peer=peer, text=shown(text, 500))


def accepted(
    trace_id: str, peer: str, sender: str, recipients: Sequence[str], octets: int, tls: TLSFacts | None
) -> None:
    """A message was committed."""
    log.info(
        "{trace_id}: accepted from {peer}, <{sender}> to {recipients}, {octets} octets, {channel}",
        trace_id=trace_id,
        peer=peer,
        sender=shown(sender),
        recipients=shown(", ".join(f"<{recipient}>" for recipient in recipients), 1000),
        octets=octets,
        channel=channel_words(tls),
    )


def relayed(
    trace_id: str, recipients: Sequence[str], host: str, reply: str, channel: str, *, duplicate_possible: bool = False
) -> None:
    """Another server took a message for these."""
    log.info(
        "{trace_id}: relayed to {recipients}, {host}, {channel}{twice}: {reply}",
        trace_id=trace_id,
        recipients=", ".join(f"<{shown(recipient)}>" for recipient in recipients),
        host=shown(host),
        channel=channel,
        twice=" (a duplicate is possible)" if duplicate_possible else "",
        reply=shown(reply, 500),
    )


def put_off(trace_id: str, recipient: str, why: str, pause: float, *, duplicate_possible: bool) -> None:
    """A message could not be handed over, and is tried again."""
    log.info(
        "{trace_id}: put off for <{recipient}>, again in {pause:.0f} s{twice}: {why}",
        trace_id=trace_id,
        recipient=shown(recipient),
        pause=pause,
        twice=" (a duplicate is possible)" if duplicate_possible else "",
        why=shown(why, 500),
    )


def given_up(trace_id: str, recipient: str, why: str) -> None:
    """A message will not reach a recipient."""
    log.warn(
        "{trace_id}: given up for <{recipient}>: {why}",
        trace_id=trace_id,
        recipient=shown(recipient),
        why=shown(why, 500),
    )


def program_ended(trace_id: str, alias: str, program: str, how: str, *, taken: bool) -> None:
    """A program that should get a message has ended."""
    write = log.info if taken else log.warn
    write(
        "{trace_id}: {alias}, {program}: {how}",
        trace_id=trace_id,
        alias=shown(alias),
        program=shown(program, 500),
        how=shown(how, 500),
    )


def maildrop_closed(listener: str, peer: str, account: str, retrieved: int, deleted: int) -> None:
    """A POP3 session ended in order."""
    log.info(
        "{listener}: {account} from {peer}: {retrieved} retrieved, {deleted} deleted",
        listener=listener,
        account=shown(account),
        peer=peer,
        retrieved=retrieved,
        deleted=deleted,
    )


def unavailable(listener: str, peer: str, what: str, why: Exception) -> None:
    """Something that may heal kept us from doing what was asked: the client was told to try again."""
    log.error(
        "{listener}: {what} for {peer} not possible now: {why}",
        listener=listener,
        what=what,
        peer=peer,
        why=shown(str(why), 500),
    )


def defect(listener: str, peer: str, failure: Failure) -> None:
    """Our own mistake, with its traceback: it must be reported and mended."""
    log.failure(
        "{listener}: unexpected error while serving {peer}; please report it", failure, listener=listener, peer=peer
    )
