"""The extensions of SMTP that exist here, as one table: what EHLO says, and what may then be used (RFC 5321, 2.2).

An `Extension` holds in a session or it does not, and everything follows from that: its EHLO line, the parameters of
MAIL and RCPT that it brings.  So nothing can be used that was not offered, and nothing is offered that does not work.

The hardest idea: *holding* and *being advertised* are not quite the same.  After a login, AUTH is no longer advertised
(a second one would be refused), but ``MAIL ... AUTH=<>`` stays valid (RFC 4954 section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mailsvc.smtp.session import Session


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers and names behind the keywords.  ``hold_seconds``: how far ahead a message may be held, 0 for never.

    ``hold_until``: the same as a UTC time of RFC 3339.
    """

    message_size: int
    messages: int = 0
    recipients: int = 0
    mechanisms: tuple[str, ...] = ()
    hold_seconds: int = 0
    hold_until: str = ""


Holds = Callable[[Session, Figures], bool]


def _always(session: Session, figures: Figures) -> bool:
    return True


def _auth(session: Session, figures: Figures) -> bool:
    return session.mode.offers_auth and session.secured and bool(figures.mechanisms)


def _limits(figures: Figures) -> str:
    limits = {"MAILMAX": figures.messages, "RCPTMAX": figures.recipients}
    return " ".join(f"{name}={value}" for name, value in limits.items() if value)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension.  ``said``: what stands behind the keyword; ``mail`` and ``rcpt``: the parameters it brings."""

    keyword: str
    source: str
    holds: Holds = _always
    said: Callable[[Figures], str] = lambda figures: ""
    advertised: Holds = _always
    mail: tuple[str, ...] = ()
    rcpt: tuple[str, ...] = ()


EXTENSIONS = (
    Extension("SIZE", "RFC 1870", said=lambda figures: str(figures.message_size), mail=("SIZE",)),
    Extension("PIPELINING", "RFC 2920"),
    Extension("8BITMIME", "RFC 6152", mail=("BODY",)),
    Extension("ENHANCEDSTATUSCODES", "RFC 2034"),
    Extension("SMTPUTF8", "RFC 6531", mail=("SMTPUTF8",)),
    Extension("CHUNKING", "RFC 3030"),
    Extension("DSN", "RFC 3461", mail=("RET", "ENVID"), rcpt=("NOTIFY", "ORCPT")),
    Extension(
        "LIMITS", "RFC 9422", lambda session, figures: bool(figures.messages or figures.recipients), said=_limits
    ),
    Extension("STARTTLS", "RFC 3207", lambda session, figures: session.mode.offers_tls and not session.secured),
    Extension("REQUIRETLS", "RFC 8689", lambda session, figures: session.secured, mail=("REQUIRETLS",)),
    Extension(
        "AUTH",
        "RFC 4954",
        _auth,
        said=lambda figures: " ".join(figures.mechanisms),
        advertised=lambda session, figures: session.login is None,
        mail=("AUTH",),
    ),
    Extension(
        "FUTURERELEASE",
        "RFC 4865",
        lambda session, figures: session.mode.requires_login and figures.hold_seconds > 0,
        said=lambda figures: f"{figures.hold_seconds} {figures.hold_until}",
        mail=("HOLDFOR", "HOLDUNTIL"),
    ),
)
"""In the order in which EHLO tells them."""


def keywords(session: Session, figures: Figures) -> tuple[str, ...]:
    """The lines of the reply to EHLO behind the first."""
    return tuple(
        f"{extension.keyword} {extension.said(figures)}".rstrip()
        for extension in EXTENSIONS
        if extension.holds(session, figures) and extension.advertised(session, figures)
    )


def parameters(verb: str, session: Session, figures: Figures) -> frozenset[str]:
    """The parameters of MAIL or RCPT that may be used in this session: none before EHLO."""
    if not session.esmtp:
        return frozenset()
    held = (extension for extension in EXTENSIONS if extension.holds(session, figures))
    return frozenset(name for extension in held for name in (extension.mail if verb == "MAIL" else extension.rcpt))
