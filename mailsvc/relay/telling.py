"""What a session with an MX host means for the domain's TLS report: which policy held, and what failed (RFC 8460, 4.3).

A function of `mailsvc.relay.attempt.Tried`.  The hardest idea is what is no failure of TLS: a host that cannot be
reached, or that sends us away before TLS, is not counted at all, and neither is what only our own sender demanded.
"""

from __future__ import annotations

from mailsvc.mtasts.record import PolicyMode
from mailsvc.relay.attempt import Tried
from mailsvc.relay.outcome import Outcome, Phase
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tlsrpt.report import Counted, Failure, Policy

_KINDS = {
    "expired": "certificate-expired",
    "not-yet-valid": "certificate-expired",
    "wrong-name": "certificate-host-mismatch",
    "no-names": "certificate-host-mismatch",
    "unknown-ca": "certificate-not-trusted",
    "self-signed": "certificate-not-trusted",
    "incomplete-chain": "certificate-not-trusted",
}


def counted(tried: Tried) -> Counted | None:
    """One session for the report of ``tried.domain``; None when it says nothing of TLS."""
    refused = tried.refused
    if refused is not None and (refused.phase is not Phase.TLS or refused.enhanced == "5.7.30"):
        return None
    failure = _failure(tried, refused)
    return Counted(_policy(tried).json(), "" if failure is None else failure.json(), 1)


def _policy(tried: Tried) -> Policy:
    dane, sts = tried.needed.dane, tried.needed.sts
    if dane.records or dane.obstacle:
        return Policy("tlsa", tried.domain, tuple(map(str, dane.records)))
    policy = sts.policy
    if policy is not None and policy.mode is not PolicyMode.NONE:
        lines = ["version: STSv1", f"mode: {policy.mode.value}", *(f"mx: {each}" for each in policy.mx)]
        return Policy("sts", tried.domain, (*lines, f"max_age: {policy.max_age}"), policy.mx)
    if sts.id and policy is None:
        return Policy("sts", tried.domain)
    return Policy("no-policy-found", tried.domain)


def _failure(tried: Tried, refused: Outcome | None) -> Failure | None:
    needed, identity = tried.needed, tried.identity

    def made(kind: str, why: str = "") -> Failure:
        return Failure(kind, tried.host, tried.peer, why)

    if needed.dane.obstacle:
        return made("dnssec-invalid", needed.dane.obstacle)
    policy = needed.sts.policy
    by_sts = policy is not None and policy.mode is not PolicyMode.NONE and not needed.dane.records
    if by_sts and policy is not None and not policy.allows(tried.host):
        return made("validation-failure", f"the policy does not name {tried.host}")
    if identity is None:
        if refused is not None and refused.enhanced != "4.7.10":
            return made("validation-failure", refused.text)
        return made("starttls-not-supported")
    if needed.dane.records and identity.level < Level.DANE:
        usable = any(each.usable for each in needed.dane.records)
        return made("validation-failure" if usable else "tlsa-invalid", "; ".join(identity.reasons))
    if by_sts and identity.level < Level.NAME:
        return made(_kind(identity), "; ".join(each.text for each in identity.findings))
    if needed.sts.id and policy is None and not needed.dane.records:
        return made("sts-policy-fetch-error", needed.sts.remark)
    return None if refused is None else made(_kind(identity), refused.text)


def _kind(identity: ServerIdentity) -> str:
    return next((_KINDS[each.kind] for each in identity.findings if each.kind in _KINDS), "validation-failure")
