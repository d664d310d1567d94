"""Events in sentences: what `mailsvc why` prints.

Pure: entries in, lines out.  Which events belong to a story is `mailsvc.storage.stories`.

The hardest idea is that nearly every word in here was chosen by a stranger.  `visible` is the last thing that happens
to a line: no escape sequence, no line end and no change of writing direction can leave this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from mailsvc.mail.channel import NOT_ASKED, Failed, Resumed, TLSFacts, Verified, certificate_words
from mailsvc.mail.event import (
    Accepted,
    CertificateNews,
    Cleared,
    Connected,
    Defect,
    Delivered,
    Disconnected,
    Dropped,
    Event,
    GivenUp,
    HandshakeFailed,
    Injected,
    LoggedIn,
    LoginFailed,
    MaildropClosed,
    Noted,
    PutOff,
    Refused,
    Relayed,
    Secured,
    TurnedAway,
    Unavailable,
    Undeleted,
)
from mailsvc.storage.events import Entry
from mailsvc.storage.stories import Story


def visible(text: str) -> str:
    """``text`` for a terminal: characters that are not printable, and backslashes, are escaped."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def told(story: Story) -> Iterator[str]:
    """The lines for people: a paragraph for each connection, in the order in which they began."""
    if story.is_cut:
        yield "Older events were left out; --since and --limit say how far back to look."
        yield ""
    for number, group in enumerate(_groups(story.entries)):
        if number:
            yield ""
        yield from map(visible, _paragraph(group))
    if story.gaps:
        yield ""
        yield "Some events may be missing:"
        for gap in story.gaps:
            yield visible(f"  {_clock(gap.time, with_date=True)}  {sentence(gap)}")


def for_programs(story: Story) -> str:
    """The same as JSON: a list of objects in the order of time, the connections not set apart."""
    return json.dumps([_facts(entry) for entry in story.entries], indent=2)


def sentence(entry: Entry) -> str:
    """One event in words, not yet escaped."""
    match entry.event:
        case Connected(listener):
            return f"connected to {listener}"
        case TurnedAway(listener, why):
            return f"was turned away from {listener}: {why}"
        case Secured(version, cipher, server_name):
            asked = f", for {server_name}" if server_name else ""
            return f"TLS handshake completed: {version}, {cipher}{asked}{_certificate(entry)}"
        case HandshakeFailed(why):
            return f"TLS handshake failed: {why}"
        case Injected(octets):
            return f"sent {octets:,} octets in clear behind STARTTLS: they were dropped, and the connection was closed"
        case LoggedIn(account, mechanism):
            return f"logged in as {account}{_by(mechanism)}"
        case LoginFailed():
            return _login_failed(entry.event)
        case Refused():
            return _refused(entry.event)
        case Unavailable(what, why):
            return f"{what} was not possible, the client was told to try again: {why}"
        case Accepted():
            return _accepted(entry.event, entry.trace_id) + _certificate(entry)
        case Delivered(mailbox, recipient):
            return f"{entry.trace_id}: delivered to the mailbox of {mailbox}" + (
                f", for {recipient}" if recipient else ""
            )
        case Relayed() | PutOff() | GivenUp():
            return f"{entry.trace_id}: {_went_out(entry.event)}"
        case Noted(text, _):
            return f"{entry.trace_id}: {text}" if entry.trace_id else text
        case MaildropClosed():
            return _maildrop(entry.event)
        case Cleared(account, why, count, _):
            reason = "by age" if why == "expired" else "deleted by every device in use"
            return f"mailbox of {account}: {count:,} {_messages(count)} removed ({reason})"
        case Undeleted(account, count, _):
            return f"mailbox of {account}: {count:,} {_messages(count)} undeleted"
        case Disconnected(seconds, why):
            return f"disconnected after {seconds:,.1f} s" + (f": {why.rstrip('.')}" if why else "")
        case Dropped(count, since):
            return f"{count:,} events since {_clock(since, with_date=True)} were not kept: too many came at once"
        case CertificateNews(_, what, text):
            return f"certificate {what}: {text}"
        case Defect(what):
            return f"a mistake of mailsvc itself ({what or 'see the log'}); please report it, the log has more"
        case other:
            return f"{other.kind or 'an event that this mailsvc does not know'}: {json.dumps(_detail(other))}"


def _certificate(entry: Entry) -> str:
    """What was found of the client's certificate, where it was asked for one."""
    if entry.tls is None or entry.tls.client == NOT_ASKED:
        return ""
    return f", client certificate: {certificate_words(entry.tls.client)}"


def _by(mechanism: str) -> str:
    return f" by {mechanism}" if mechanism else ""


def _login_failed(event: LoginFailed) -> str:
    name = f"as {event.name}" if event.name else "under a name that is no mail address"
    why = f" ({event.why})" if event.why else ""
    return f"login {name}{_by(event.mechanism)} was refused: {event.reply or 'wrong'}{why}"


def _refused(event: Refused) -> str:
    to = _some(event.recipients, len(event.recipients))
    match event.what:
        case "recipient":
            return f"recipient {to} of a message from <{event.sender}> was refused: {event.reply}"
        case "message":
            return f"the message from <{event.sender}> to {to} was refused: {event.reply}"
        case "session":
            return f"the session was ended: {event.reply}"
        case what:
            about = f" of {', '.join(event.recipients)}" if event.recipients else ""
            return f"{what}{about} was refused: {event.reply}"


def _accepted(event: Accepted, trace_id: str | None) -> str:
    parts = [
        f"{trace_id}: accepted (250) from <{event.sender}>",
        f" to {_some(event.recipients, event.recipient_count)}, {event.size:,} octets",
        f", with {event.protocol}" if event.protocol else "",
        f" and {event.tls}" if event.tls else "",
        f", the client called itself {event.helo}" if event.helo else "",
        f", logged in as {event.login}" if event.login else "",
        f", as the relay client {event.machine}" if event.machine else "",
        f", Message-ID {event.message_id_header}" if event.message_id_header else "",
    ]
    return "".join(parts)


def _went_out(event: Relayed | PutOff | GivenUp) -> str:
    secured = "; ".join(part for part in (event.tls, event.channel) if part)
    channel = f" ({secured})" if secured else ""
    tried = "at the first attempt" if event.attempts == 1 else f"after {event.attempts:,} attempts"
    match event:
        case Relayed():
            taken = f"<{event.recipient}> was taken by {event.host} {tried}{channel}: {event.reply}"
            return f"{taken}; it may have come twice" if event.duplicate_possible else taken
        case PutOff():
            at = f"{event.host}, at {event.phase}" if event.host else event.phase
            twice = "; it may arrive twice" if event.duplicate_possible else ""
            again = _clock(event.again, with_date=True)
            return f"<{event.recipient}> was put off {tried} ({at}){channel}: {event.why}; next at {again}{twice}"
        case GivenUp():
            by = f" by {event.host}" if event.host and not event.expired else ""
            how = "was given up" if event.expired else f"was refused{by}"
            return f"<{event.recipient}> {how} {tried}{channel}: {event.why}"


def _maildrop(event: MaildropClosed) -> str:
    fetched = f"{event.retrieved:,} {_messages(event.retrieved)} fetched"
    if event.orderly and event.by_device and event.deleted:
        whose = event.credential or "this device"
        parts = f"{event.deleted:,} deleted for {whose}, {event.left:,} of them removed"
        return f"mailbox of {event.account}: {fetched}, {parts}"
    if event.orderly:
        # The account's own password needs no word: nearly everybody has just that.
        by = f" by {event.credential}" if event.deleted and event.credential not in ("", "password") else ""
        return f"mailbox of {event.account}: {fetched}, {event.deleted:,} removed{by}"
    return f"mailbox of {event.account}: {fetched}; the session ended without QUIT, so nothing was removed"


def _messages(count: int) -> str:
    return "message" if count == 1 else "messages"


def _some(addresses: Sequence[str], count: int) -> str:
    """The first addresses in brackets, and how many there are besides."""
    shown = ", ".join(f"<{address}>" for address in addresses[:10])
    others = max(count, len(addresses)) - min(10, len(addresses))
    return f"{shown} and {others:,} more" if others else shown


def _groups(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of each connection; those of none stand alone."""
    groups: dict[object, list[Entry]] = {}
    for entry in entries:
        alone = ("message", entry.trace_id) if entry.trace_id else ("event", entry.number)
        groups.setdefault(entry.session if entry.session is not None else alone, []).append(entry)
    return list(groups.values())


def _paragraph(group: Sequence[Entry]) -> Iterator[str]:
    first = group[0]
    listener = next((entry.event.listener for entry in group if isinstance(entry.event, (Connected, TurnedAway))), "")
    whose = f"  {first.peer}" if first.peer else ""
    on = f" on {listener}" if listener else ""
    yield f"{_clock(first.time, with_date=True)} UTC{whose}{on}"
    day = _clock(first.time, with_date=True)[:10]
    for entry in group:
        elsewhere = _clock(entry.time, with_date=True)[:10] != day
        yield f"  {_clock(entry.time, with_date=elsewhere)}  {sentence(entry)}"


def _clock(moment: float, *, with_date: bool) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


def _detail(event: Event) -> dict[str, object]:
    return event.detail()


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": entry.event.kind,
        "session": None if entry.session is None else f"{entry.session:x}",
        "peer": entry.peer,
        "trace_id": entry.trace_id,
        "message": entry.message_id,
        "sentence": visible(sentence(entry)),
        "detail": _detail(entry.event),
        **({} if entry.tls is None else {"tls": _channel(entry.tls)}),
    }


def _channel(tls: TLSFacts) -> dict[str, object]:
    client = tls.client
    facts: dict[str, object] = {"version": tls.version, "cipher": tls.cipher, "bits": tls.bits, "group": tls.group}
    facts["client_certificate"] = certificate_words(client)
    if isinstance(client, Verified | Failed | Resumed):
        facts |= {"client_subject": client.subject, "client_spki": client.spki}
    if isinstance(client, Verified | Failed):
        facts["client_issuer"] = client.issuer
    return facts
