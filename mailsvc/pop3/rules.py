"""What a POP3 listener holds its clients to, and who decides what the server does not: two values for every session."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.accounts.authenticator import Authenticator
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.mailbox import Maildrops
from mailsvc.pop3.texts import DEFAULT
from mailsvc.wire.conversation import Patience


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener holds its clients to.

    ``command_line`` and ``auth_line``: octets with CRLF (for the latter RFC 5034 section 4 wants the longest that a
    mechanism makes, and RFC 4954 section 4 says 12288).  ``errors``, ``commands``: before the session is ended;
    ``early_commands``: the same before login.  ``greeting``: the text of the first line, "" for the host's name.
    ``implementation``: what CAPA says we are, "" for nothing.  ``language``: what ``LANG *`` stands for (RFC 6856
    section 3.2).  ``refuse_utf8``: internationalised messages are refused before UTF8 (RFC 6856 section 2.1 leaves the
    choice).
    """

    name: str
    implicit_tls: bool
    hostname: str
    patience: Patience
    command_line: int = 2048
    auth_line: int = 12288
    errors: int = 20
    commands: int = 1_000_000
    early_commands: int = 100
    greeting: str = ""
    implementation: str = "mailsvc"
    language: str = DEFAULT
    refuse_utf8: bool = False


@dataclass(frozen=True, slots=True)
class Helpers:
    """What the sessions of all listeners share."""

    maildrops: Maildrops
    authenticator: Authenticator
    admission: Admission = field(default_factory=Admission)
