"""The gate: what a certificate must be before anything goes live, and what goes live when some are not.

Pure.  Sources (`mailsvc.tls.sources`) bring `Candidate`s: octets as they were found, with the mode and owner of their
file.  `judge` makes a `Credential` of one or says in sentences why not; `decide` makes the next table of all that were
judged, of the table that is live, and of the host name that must stay covered.  Who watches, swaps and tells is
`mailsvc.tls.reload`.

The hardest idea is that a bad certificate changes nothing, *name by name*.  A renewal of one name that failed must not
hold up another's; and what was good stays whole: certificate and key of one name come from one moment, never half of
each.  So for each name there are three outcomes: the new one, the one that is live already, or (only at the start,
when nothing is live) a refusal.  A name disappears only when its source can be read and does not have it any more, and
not even then while it is the only one that covers the host name.

Precedence: sources are asked in their order, and of two candidates with one name (a folder and a row both called
mail.example.org) that of the earlier source counts, good or bad.  Which certificate answers to which host name is
`mailsvc.tls.table`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from mailsvc.certkit.files import Reader, Source
from mailsvc.certkit.inspect import (
    Chain,
    Finding,
    Passphrase,
    check_chain,
    check_fit,
    check_private,
    read_chain,
    read_key,
)
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.ocsp import read_staple
from mailsvc.tls.table import CredentialTable, make_table

_MOST_REASONS = 20


def _no_passphrase() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One certificate with its key, as a source found them: ``chain`` and ``key`` are PEM, ``staple`` is DER or None.

    ``name`` is what people call it, ``origin`` its source.  ``passphrase`` opens an encrypted key.  The path, mode and
    owner in a `Source` are those of a file; what comes from elsewhere gives a path that tells people where to look,
    and leaves the rest as it is (private).  ``renewal``: how it is renewed, as a command or a sentence without its
    period; "" for the usual words about a folder.
    """

    name: str
    chain: Source
    key: Source
    origin: str
    staple: Source | None = None
    passphrase: Passphrase = field(default=_no_passphrase, repr=False)
    renewal: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source has at one moment.

    ``findings`` are about the source itself; one that is an error says that nothing can be concluded from what is
    missing.  ``nothing`` is what to say when no source has any certificate.
    """

    candidates: tuple[Candidate, ...] = ()
    findings: tuple[Finding, ...] = ()
    nothing: Finding | None = None


class CredentialSource(Protocol):
    """Where certificates come from.  Both methods are called in a thread and may take their time."""

    @property
    def origin(self) -> str:
        """What people call it; each source has another."""

    def state(self) -> object:
        """Something that equals what it was before as long as nothing has changed; asked every few seconds."""

    def read(self) -> Found:
        """All certificates that it has.  Does not raise: what is wrong becomes a finding."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a candidate: a credential, or None when one of the findings is an error.

    ``key_fits``: its key is there and fits, so that what is wrong is the certificate.
    """

    name: str
    origin: str
    chain: Chain
    credential: Credential | None
    findings: tuple[Finding, ...]
    key_fits: bool = True

    @property
    def errors(self) -> tuple[str, ...]:
        """Why it is refused; the first reasons, of a file with a thousand mistakes."""
        told = tuple(str(finding) for finding in self.findings if finding.severity == "error")
        return told if len(told) <= _MOST_REASONS else (*told[:_MOST_REASONS], f"{len(told) - _MOST_REASONS} more")


def judge(candidate: Candidate, now: datetime, reader: Reader) -> Judged:
    """Hold one candidate against everything that it must be by itself.  ``now`` is aware of its time zone."""
    chain, findings = read_chain(candidate.chain)
    findings += check_chain(chain, candidate.chain.path, now)
    if candidate.renewal:
        findings = [replace(each, text=_renewed_by(each.text, candidate.renewal)) for each in findings]
    key, key_findings = read_key(candidate.key, candidate.passphrase)
    findings += check_private(candidate.key, reader) + key_findings
    if b"PRIVATE KEY-----" in (candidate.chain.data or b""):
        findings += check_private(candidate.chain, reader)
    if key is not None:
        findings += check_fit(chain, key, candidate.chain.path, candidate.key.path)
    if key is None or not chain or any(each.severity == "error" for each in findings):
        # A broken link is both chain and key.
        key_fits = key is not None and bool(chain) and key.public_key() == chain[0].public_key()
        return Judged(candidate.name, candidate.origin, chain, None, tuple(dict.fromkeys(findings)), key_fits)
    staple = None
    if candidate.staple is not None:
        octets, why = candidate.staple.data, candidate.staple.problem or ""
        if octets is not None:
            staple, why = read_staple(octets, chain, now)
        if staple is None:
            findings.append(Finding("warning", str(candidate.staple.path), f"is not shown to clients: {why}"))
    sources = (candidate.chain.path, candidate.key.path)
    credential = make_credential(candidate.name, chain, key, sources, origin=candidate.origin, staple=staple)
    return Judged(candidate.name, candidate.origin, chain, credential, tuple(findings))


def _renewed_by(text: str, renewal: str) -> str:
    said, semicolon, _ = text.partition("; renew it")
    return f"{said}; {renewal}" if semicolon else text


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that does not go live: the certificate ``name`` of a source, or (name "") the source itself.

    ``instead``: what is served for it, in words.
    """

    name: str
    origin: str
    reasons: tuple[str, ...]
    instead: str

    def __str__(self) -> str:
        what = f"the certificate {self.name} of {self.origin}" if self.name else f"the certificates of {self.origin}"
        return f"{what}: {self.instead}: {'; '.join(self.reasons)}"


_LAST_GOOD = "the new one is refused, and the last good one stays in use"
_ITSELF = "it is still in use, and should not be"
_NOTHING = "it is refused, and nothing is in use for it"


@dataclass(frozen=True, slots=True)
class Decision:
    """What goes live: ``table``, the same object as before when nothing changes.

    ``replaced``, ``added`` and ``removed`` are names.  ``refusals`` is what does not go live.
    """

    table: CredentialTable
    replaced: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[Finding, ...] = ()

    @property
    def fresh(self) -> tuple[Credential, ...]:
        """The credentials that were not live before."""
        names = {*self.replaced, *self.added}
        return tuple(each for each in self.table.credentials if each.name in names)


def first_of_each_name(judged: Sequence[Judged]) -> tuple[list[Judged], list[Finding]]:
    """Those that count, and a warning for each that is hidden behind one of an earlier source."""
    counted: dict[str, Judged] = {}
    hidden = []
    for each in judged:
        before = counted.setdefault(each.name, each)
        if before is not each:
            text = f"is not used: {before.origin} has a certificate of this name too, and comes first; remove one"
            hidden.append(Finding("warning", f"the certificate {each.name} of {each.origin}", text))
    return list(counted.values()), hidden


def decide(
    judged: Sequence[Judged],
    broken: Mapping[str, Sequence[str]],
    live: CredentialTable,
    hostname: str,
    unfit: Mapping[str, str] | None = None,
) -> Decision:
    """The next table.

    ``judged``: all candidates, in the order of their sources.  ``broken``: sources (by `CredentialSource.origin`) of
    which it is not known what they have, and why.  ``unfit``: names whose new certificate must not go live for a
    reason from outside (a TLSA record), in words.
    """
    counted, hidden = first_of_each_name(judged)
    warnings = [*hidden, *(each for one in counted for each in one.findings if each.severity == "warning")]
    before = {each.name: each for each in live.credentials}
    after: dict[str, Credential] = {}
    refusals = [
        Refusal("", origin, tuple(why), "they cannot be had, and the last ones stay in use")
        for origin, why in broken.items()
    ]
    for one in counted:
        old = before.get(one.name)
        reasons = one.errors
        # What is live already stays, whatever is published about it.
        if not reasons and unfit and one.name in unfit and not _same(old, one.credential):
            reasons = (unfit[one.name],)
        if reasons or one.credential is None:
            itself = old is not None and one.key_fits and old.chain == one.chain
            instead = _NOTHING if old is None else _ITSELF if itself else _LAST_GOOD
            refusals.append(Refusal(one.name, one.origin, reasons, instead))
            if old is not None:
                after[one.name] = old
        else:
            after[one.name] = old if old is not None and _same(old, one.credential) else one.credential
    for name, old in before.items():
        if name not in after and old.origin in broken:
            after[name] = old
    refusals += _keep_covered(hostname, before, after)
    if after == before and list(after) == list(before):
        return Decision(live, refusals=tuple(refusals), warnings=tuple(warnings))
    return Decision(
        make_table(tuple(after.values()), hostname),
        tuple(name for name in after if name in before and after[name] is not before[name]),
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(refusals),
        tuple(warnings),
    )


def _same(old: Credential | None, new: Credential | None) -> bool:
    if old is None or new is None:
        return False
    return (old.chain, old.staple, old.origin) == (new.chain, new.staple, new.origin)


def _keep_covered(hostname: str, before: Mapping[str, Credential], after: dict[str, Credential]) -> list[Refusal]:
    """Take back what would leave the host name without a certificate."""
    if any(each.names.cover(hostname) for each in after.values()):
        return []
    taken_back = []
    for name, old in before.items():
        if not old.names.cover(hostname):
            continue
        new = after.get(name)
        if new is None:
            why = f"it was removed, and no other certificate covers the host name {hostname}"
        else:
            why = f"the new one does not cover the host name {hostname} (it covers: {new.names})"
        after[name] = old
        taken_back.append(Refusal(name, old.origin, (why,), _LAST_GOOD))
    return taken_back
