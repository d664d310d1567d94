"""A probe's report: as lines for people, as plain values for programs.  Pure, and both from the same facts.

Every line that a stranger had a part in is printable ASCII when it gets here (`mailsvc.relay.replies.readable`,
`mailsvc.mail.channel.safe_text`), except certificates' texts, which `certkit.describe` makes so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.describe import describe
from mailsvc.certkit.inspect import printable
from mailsvc.mail.channel import safe_text
from mailsvc.mtasts.record import PolicyMode
from mailsvc.probe.conclusion import Conclusion, Published
from mailsvc.probe.observation import Observation, Talk
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.ocsp import read_staple

_CHAIN_SHOWN = 12
"""Certificates that are shown of what a server sends."""

_RECORDS_SHOWN = 8

_LINE_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """All that a probe found.  ``resumed``: whether a second handshake took the session up; None when not tried."""

    seen: Observation
    published: Published
    conclusion: Conclusion
    now: datetime
    resumed: bool | None = None


def lines(report: Report, *, show_pem: bool = False) -> Iterator[str]:
    """The report for people; with `show_pem` each certificate also as PEM."""
    return (printable(line)[:_LINE_LIMIT] for line in _lines(report, show_pem=show_pem))


def _lines(report: Report, *, show_pem: bool) -> Iterator[str]:
    seen, identity = report.seen, report.seen.identity
    yield f"{seen.target}{f' ({seen.peer})' if seen.peer and seen.peer != seen.target.host else ''}"
    if seen.dialogue:
        yield from _section("Dialogue")
        for line in seen.dialogue:
            yield f"  {line.who} {line.text}"
    if identity is not None:
        yield from _section("Channel")
        for name, value in _channel(report, identity):
            yield f"  {name:<12} {value}"
        yield from _section("Certificates that the server sent")
        yield from _certificates(identity, show_pem=show_pem)
        yield from _section("What is wrong with them")
        texts = [each.text for each in identity.findings]
        yield from (f"  {text}" for text in texts or ["nothing"])
    if seen.remarks:
        yield from _section("What else is odd")
        yield from (f"  {text}" for text in seen.remarks)
    if seen.target.talk in (Talk.SMTP, Talk.LMTP):
        yield from _section("What is published and remembered")
        for name, value in _published(report):
            yield f"  {name:<12} {value}"
    yield from _section("Verdict")
    yield f"  {report.conclusion.sentence}"
    if report.conclusion.relay:
        yield f"  our relay: {report.conclusion.relay}"


def as_json(report: Report) -> dict[str, object]:
    """The report for programs: plain values only."""
    seen, conclusion, published = report.seen, report.conclusion, report.published
    target = seen.target
    return {
        "ok": conclusion.outcome.value == 0,
        "outcome": conclusion.outcome.name.lower(),
        "status": conclusion.outcome.value,
        "sentence": conclusion.sentence,
        "level": conclusion.level.name.lower(),
        "target": {
            "host": target.host or None,
            "port": target.port or None,
            "path": target.path or None,
            "protocol": target.talk.value,
            "starttls": not target.at_once,
            "server_name": target.server_name,
            "peer": seen.peer or None,
        },
        "dialogue": [{"who": line.who, "text": line.text} for line in seen.dialogue],
        "offered": {"in_clear": _listed(seen.in_clear), "inside_tls": _listed(seen.inside)},
        "tls": None if seen.identity is None else _tls_json(report, seen.identity),
        "remarks": list(seen.remarks),
        "dane": {
            "place": published.dane.place or None,
            "records": [str(record) for record in published.dane.records],
            "remark": published.dane.remark or None,
            "obstacle": published.dane.obstacle or None,
        },
        "mta_sts": {
            "domain": published.sts.domain or None,
            "id": published.sts.id or None,
            "mode": published.sts.policy.mode.value if published.sts.policy else None,
            "mx": list(published.sts.policy.mx) if published.sts.policy else [],
            "remark": published.sts.remark or None,
        },
        "memory": {"level": published.memory.level.name.lower(), "why": published.memory.why},
        "relay": {
            "domain": published.domain or None,
            "demands": conclusion.needed.level.name.lower(),
            "because": list(conclusion.needed.reasons),
            "obstacle": conclusion.needed.obstacle or None,
            "would_deliver": conclusion.delivers,
            "sentence": conclusion.relay or None,
        },
    }


def _section(title: str) -> Iterator[str]:
    yield ""
    yield title


def _listed(offered: tuple[str, ...] | None) -> list[str] | None:
    return None if offered is None else list(offered)


def _channel(report: Report, identity: ServerIdentity) -> Iterator[tuple[str, str]]:
    yield "version", identity.version
    yield "cipher", f"{identity.cipher} ({identity.bits} bits)"
    yield "group", identity.group or "not told"
    yield "server name", identity.server_name
    yield "level", identity.level.text
    if identity.chain:
        names = " <- ".join(_subject(each) for each in identity.chain)
        yield "chain", names
    yield "OCSP", _ocsp(report, identity)
    if report.seen.wants:
        yield "asks for", f"a client certificate of {'; '.join(report.seen.wants)}"
    if report.resumed is not None:
        yield "resumption", "a second handshake took the session up" if report.resumed else "not offered, or not taken"


def _ocsp(report: Report, identity: ServerIdentity) -> str:
    if not report.seen.staple:
        return "no response in the handshake"
    chain = identity.chain if len(identity.chain) > 1 else identity.sent
    staple, problem = read_staple(report.seen.staple, chain, report.now)
    return "a response in the handshake, good" if staple is not None else f"a response that does not count: {problem}"


def _certificates(identity: ServerIdentity, *, show_pem: bool) -> Iterator[str]:
    if not identity.sent:
        yield "  none"
    for number, certificate in enumerate(identity.sent[:_CHAIN_SHOWN]):
        try:
            told = describe(certificate)
        except Exception:  # a stranger's certificate that cannot be parsed further is described by its finding
            yield f"  {number} {_subject(certificate)}, which cannot be read further"
            continue
        yield f"  {number} {told.subject}"
        yield f"    issuer  {told.issuer}"
        if number == 0 or told.names:
            yield f"    names   {', '.join(told.names) or 'none'}"
        yield f"    valid   {told.not_before} to {told.not_after}"
        yield f"    key     {told.key}, signed with {told.signature}"
        yield f"    SPKI    {told.spki_sha256}"
        if show_pem:
            yield from certificate.public_bytes(Encoding.PEM).decode("ascii").splitlines()
    if len(identity.sent) > _CHAIN_SHOWN:
        yield f"  and {len(identity.sent) - _CHAIN_SHOWN} more"


def _published(report: Report) -> Iterator[tuple[str, str]]:
    published = report.published
    dane, sts = published.dane, published.sts
    if dane.records:
        more = f" and {len(dane.records) - _RECORDS_SHOWN} more" if len(dane.records) > _RECORDS_SHOWN else ""
        shown = "; ".join(str(record) for record in dane.records[:_RECORDS_SHOWN])
        yield "DANE", f"{dane.place}: {shown}{more}"
        yield "", _dane_match(report.seen.identity)
    else:
        yield "DANE", dane.obstacle or dane.remark
    if sts.policy is not None:
        fits = sts.policy.mode is PolicyMode.NONE or sts.policy.allows(report.seen.target.server_name)
        host = report.seen.target.server_name
        word = "which names" if fits else "which does not name"
        named = "" if sts.policy.mode is PolicyMode.NONE else f" for {', '.join(sts.policy.mx[:5])}, {word} {host}"
        yield "MTA-STS", f"{sts.domain} says {sts.policy.mode.value}{named}"
    else:
        yield "MTA-STS", sts.remark
    yield "memory", published.memory.why


def _dane_match(identity: ServerIdentity | None) -> str:
    if identity is None or identity.dane is None:
        return "nothing was compared with them"
    if identity.dane.record is not None:
        return f"{identity.dane.record} matches"
    if not identity.dane.usable:
        return "none of them can be used with SMTP"
    against = "; ".join(each.text for each in identity.dane.findings)
    return f"none of them matches{f': {against}' if against else ''}"


def _tls_json(report: Report, identity: ServerIdentity) -> dict[str, object]:
    return {
        "version": identity.version,
        "cipher": identity.cipher,
        "bits": identity.bits,
        "group": identity.group,
        "level": identity.level.name.lower(),
        "findings": [{"kind": each.kind, "depth": each.depth, "text": each.text} for each in identity.findings],
        "certificates": [_certificate_json(each) for each in identity.sent[:_CHAIN_SHOWN]],
        "chain": [_subject(each) for each in identity.chain],
        "dane": None if identity.dane is None else _dane_match(identity),
        "ocsp": _ocsp(report, identity) if report.seen.staple else None,
        "client_cas": list(report.seen.wants),
        "resumed": report.resumed,
    }


def _certificate_json(certificate: x509.Certificate) -> dict[str, object]:
    pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
    try:
        return {**describe(certificate).as_json(), "pem": pem}
    except Exception:
        return {"subject": _subject(certificate), "pem": pem}


def _subject(certificate: x509.Certificate) -> str:
    try:
        return safe_text(certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}", 120)
    except ValueError:
        return "a certificate whose name cannot be read"
