"""What the SMTP listeners have in common and where they differ: data, not subclasses.

RFC 5321 describes the exchange between hosts (MX), RFC 6409 message submission by users, RFC 8314 section 3.3
submission over implicit TLS.  One server class serves them all and asks its `Mode`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """The rules of one kind of listener.

    ``implicit_tls``: TLS from the first octet.  ``requires_tls``: before TLS only EHLO, NOOP, STARTTLS and QUIT.
    ``offers_auth``: AUTH exists, inside TLS.  ``requires_login``: MAIL only after AUTH.  ``lmtp``: LHLO instead of
    EHLO, and an answer for each recipient behind the message.  ``offers_tls``: STARTTLS exists.
    """

    name: str
    implicit_tls: bool
    requires_tls: bool
    offers_auth: bool
    requires_login: bool
    lmtp: bool = False
    offers_tls: bool = True

    @property
    def for_servers(self) -> bool:
        """Whether hosts that we do not know bring mail here."""
        return not (self.requires_login or self.lmtp)


def mx(*, requires_tls: bool) -> Mode:
    """Mail from other hosts, RFC 5321; ``requires_tls`` off is what a public MX needs."""
    return Mode("smtp", implicit_tls=False, requires_tls=requires_tls, offers_auth=False, requires_login=False)


SUBMISSION = Mode("submission", implicit_tls=False, requires_tls=True, offers_auth=True, requires_login=True)
"""Mail from our users with STARTTLS, RFC 6409; what RFC 8314 calls cleartext submission does not exist here."""

SUBMISSIONS = Mode("submissions", implicit_tls=True, requires_tls=True, offers_auth=True, requires_login=True)
"""Mail from our users over implicit TLS, RFC 8314 section 3.3."""


STDIO = Mode("stdio", False, requires_tls=False, offers_auth=False, requires_login=False, offers_tls=False)
"""Mail from a program of this machine, on its pipes; nobody can listen to them, and nobody logs in."""


def lmtp(*, requires_tls: bool) -> Mode:
    """Mail from another mail server of ours, RFC 2033; on a UNIX socket or loopback nobody listens in."""
    return Mode(
        "lmtp", implicit_tls=False, requires_tls=requires_tls, offers_auth=False, requires_login=False, lmtp=True
    )
