"""What is known about the channel that a command or a message came through.

Trace headers, events and replies want to say "TLSv1.3 with cipher ..." without holding an OpenSSL object, so
the facts are copied once, after the handshake, into a value. Measuring them is left to
`mailsvc.tls.server.tls_facts`, wording them to whoever prints. The rule behind the classes: a field holds what
the handshake *did* negotiate, never what was configured or asked for (RFC 8314 section 4.3 and RFC 3848 want
the trace to be true).

A client certificate is one of five values, because "verified or not" hides what matters: whether we asked,
whether there was one, what was wrong with it, and whether anybody looked at all. A resumed session is the
hardest: OpenSSL does not check the certificate again, so it is `Resumed` and proves nothing (RFC 8446 section
2.2). The texts come from a stranger's certificate. They are made printable
ASCII and cut when the value is made, so a line of a log or of a header can hold them; whoever writes them
into a *comment* of a header still quotes parentheses and backslashes (RFC 5322 section 3.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TEXT_LIMIT = 200
"""Characters of one text (a subject, a name, a reason) that are kept of a certificate."""

LIST_LIMIT = 20
"""Names, addresses or reasons that are kept of a certificate."""

REASONS_TOLD = 5
"""Reasons that one line tells."""

MAIL_ADDRESS_LIMIT = 254
"""Octets of the longest mail address that fits into a path (RFC 5321 section 4.5.3.1.3, erratum 1690)."""


def safe_text(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""`text` as printable ASCII of at most `limit` characters (at least 3); a longer one is cut and ends in "...".

    What is not ASCII is written as RFC 4514 section 2.4 writes it in a name (`\C3\B6`), what is not printable
    as "?".
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    # Cutting first bounds the work for a subject of a megabyte; a character gives at least one of the result.
    head = text[: limit + 1]
    parts = []
    for char in head:
        if char.isascii():
            parts.append(char if char.isprintable() else "?")
        elif char.isprintable():
            parts.extend(f"\\{octet:02X}" for octet in char.encode("utf-8", "replace"))
        else:
            parts.append("?")
    made = "".join(parts)
    return made if len(made) <= limit else made[: limit - 3] + "..."


def _safe_texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(safe_text(text) for text in tuple(texts)[:LIST_LIMIT])


def _mail_addresses(texts: Iterable[str]) -> tuple[str, ...]:
    # An address may decide who logs in: one that would have to be changed or cut is left out instead.
    whole = (text for text in texts if text == safe_text(text, MAIL_ADDRESS_LIMIT) and " " not in text)
    return tuple(whole)[:LIST_LIMIT]


@dataclass(frozen=True, slots=True)
class NotAsked:
    """The server did not ask the client for a certificate."""


@dataclass(frozen=True, slots=True)
class NoCertificate:
    """The server asked, and the client had none."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A client certificate that was checked in this session without an error.

    `subject` and `issuer` are names as RFC 4514 writes them; `names` the host names, IP addresses and mail
    addresses of its subjectAltName; `emails` the mail addresses alone, whole and unchanged (one that is not
    printable ASCII is left out). `spki` and `anchor` are the SHA-256 of the public keys of the certificate
    and of the root that its chain ends in: 64 lower-case hexadecimal digits.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    spki: str
    emails: tuple[str, ...] = ()
    anchor: str = ""

    def __post_init__(self) -> None:
        _make_safe(self)


@dataclass(frozen=True, slots=True)
class Failed:
    """A client certificate that did not pass its check; `reasons` are sentences, all of them.

    `kinds` names each reason in one word ("expired", "unknown-ca", "revoked": the kinds of
    `mailsvc.tls.chain`), `brief` says each in a few ("expired 2026-01-01"). The client did prove that it holds
    the key of `spki`, whoever says whose it is: the rest tells what the certificate *claims*, in the forms of
    `Verified`. `lists` says that there are revocation lists to hold certificates against.
    """

    reasons: tuple[str, ...]
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    spki: str = ""
    kinds: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()
    lists: bool = False

    def __post_init__(self) -> None:
        _make_safe(self)


@dataclass(frozen=True, slots=True)
class Resumed:
    """The session was resumed and nobody knows what its first handshake found: this is *not* verified."""

    subject: str = ""
    spki: str = ""

    def __post_init__(self) -> None:
        _make_safe(self)


ClientCertificate = NotAsked | NoCertificate | Verified | Failed | Resumed
"""What is known of the client's certificate."""

NOT_ASKED = NotAsked()
NO_CERTIFICATE = NoCertificate()

_PART_OF_A_NAME = re.compile(r"((?:\\.|[^,+\\])*)(?:[,+]|$)")


def common_name(subject: str) -> str:
    """The common name in a name as RFC 4514 writes it, with "CN=" in front; all of the name when it has none."""
    # Part by part from the beginning: an escaped comma must not make a second, false common name.
    for part in _PART_OF_A_NAME.finditer(subject):
        if part[1].startswith("CN="):
            return part[1]
    return subject


def certificate_words(client: ClientCertificate) -> str:
    """What is known of a client's certificate, in words: "verified, CN=alice, issuer CN=Example CA", "not verified:
    expired 2026-01-01", "none", "not asked". Printable ASCII; not quoted for anything."""
    return " ".join(certificate_parts(client))


def certificate_parts(client: ClientCertificate) -> tuple[str, ...]:
    """The same in parts, between which a header may be folded."""
    match client:
        case NotAsked():
            return ("not asked",)
        case NoCertificate():
            return ("none",)
        case Verified(subject, issuer, names):
            whom = common_name(subject) or (names[0] if names else "without a name")
            return "verified,", f"{whom},", f"issuer {issuer or 'without a name'}"
        case Failed():
            *others, last = why_failed(client)
            return "not verified:", *(f"{each};" for each in others), last
        case Resumed():
            return "not verified:", "resumed session, not checked"


def why_failed(client: Failed) -> tuple[str, ...]:
    """The reasons in a few words each, the first of them."""
    told = client.brief or client.kinds or client.reasons or ("it cannot be read",)
    return told if len(told) <= REASONS_TOLD else (*told[: REASONS_TOLD - 1], "and more")


def _make_safe(value: Verified | Failed | Resumed) -> None:
    # Frozen values are only changed here, before anybody else has seen them.
    for name in value.__slots__:
        held = getattr(value, name)
        if name == "emails":
            object.__setattr__(value, name, _mail_addresses(held))
        elif isinstance(held, tuple):
            object.__setattr__(value, name, _safe_texts(held))
        elif isinstance(held, str):
            object.__setattr__(value, name, safe_text(held))


@dataclass(frozen=True, slots=True)
class TLSFacts:
    """The outcome of one finished TLS handshake.

    `version` is OpenSSL's name ("TLSv1.3"), `cipher` the suite ("TLS_AES_256_GCM_SHA384"), `bits` the
    strength of its symmetric key. `group` is the key agreement ("X25519MLKEM768"), None when OpenSSL does not
    say (a resumed TLS 1.2 session). `server_name` is the host name that the client asked for (SNI, RFC 6066
    section 3), in lower case, and None when it named none or something that is no host name: whatever stands
    here is safe to write into a header or a log. `client` is what is known of the client's certificate.
    """

    version: str
    cipher: str
    bits: int
    group: str | None
    server_name: str | None
    client: ClientCertificate = NOT_ASKED
