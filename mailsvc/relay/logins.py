"""As whom we log in at a relay: credentials, each under the label that a relay's URL names.

They stand in the database, where the secret is sealed (`mailsvc.tls.sealing`), or in a file that only its owner may
read; a URL never holds them, because URLs are printed, logged and shown.  Which SASL mechanism is spoken with them is
left to `mailsvc.sasl.client`, among those that the credentials allow; the rows to `mailsvc.storage.routes`.

The file is TOML, one table for each label; `user`, and `password` or `token` (OAuth 2, RFC 7628), or neither where
our certificate is the proof (EXTERNAL)::

    [provider]
    user = "example.org"
    password = "..."
    mechanisms = ["PLAIN"]  # with a password, and only when the best that both know is not wanted

The hardest idea is what a mistake may say: the TOML parser's messages quote what they stumbled over, which may be the
password, so only the line of a mistake is passed on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from mailsvc.certkit.files import Source, current_reader, read
from mailsvc.certkit.inspect import check_private
from mailsvc.errors import MailsvcError
from mailsvc.relay.url import LABEL
from mailsvc.sasl.client import PASSWORD_MECHANISMS

SECRET_LIMIT = 8192
"""Octets of a secret: a token may be long, a SASL response has a limit of 12288 (RFC 4954 section 4)."""

USER_LIMIT = 512
"""Octets of a user name."""


class LoginKind(Enum):
    """What proves who we are."""

    PASSWORD = "password"
    TOKEN = "token"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class RelayLogin:
    """Credentials.  ``user`` may be "" with a certificate: then the relay knows whose it is.

    ``mechanisms``: those that may be spoken with a password, () for the best that both sides know.

    Raises MailsvcError, without the secret in it, for what cannot be sent.
    """

    label: str
    kind: LoginKind
    user: str
    secret: str = field(default="", repr=False)
    mechanisms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise MailsvcError(f"the credentials {self.label[:64]!a}: {problem}")


def read_logins(path: Path) -> Mapping[str, RelayLogin]:
    """The credentials in the file.  Raises MailsvcError when it is missing, open to others, or has a mistake."""
    source = read(path)
    if source.data is None:
        raise MailsvcError(f"{path}: the file of credentials for relays {source.problem}")
    for finding in check_private(source, current_reader()):
        raise MailsvcError(str(finding))
    return _logins(source)


def _logins(source: Source) -> Mapping[str, RelayLogin]:
    assert source.data is not None
    try:
        tables = tomllib.loads(source.data.decode("utf-8"))
    except UnicodeDecodeError:
        raise MailsvcError(f"{source.path}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\(at (line [0-9]+), column [0-9]+\)", str(error))
        where = f"in {line[1]}" if line else "at its end"
        raise MailsvcError(
            f'{source.path}: is no TOML {where}; write [LABEL] and below it user = "..." and password = "..."'
        ) from None
    found = {}
    for label, table in tables.items():
        found[label] = _login(source.path, label, table)
    return found


def _login(path: Path, label: str, table: object) -> RelayLogin:
    where = f"{path}: [{ascii(label[:64])[1:-1]}]"
    if not isinstance(table, dict):
        raise MailsvcError(f"{path}: user, password and token stand below a [LABEL]")
    table = dict(table)
    mechanisms = table.pop("mechanisms", [])
    if not isinstance(mechanisms, list) or not all(isinstance(name, str) for name in mechanisms):
        raise MailsvcError(f'{where}: mechanisms is a list such as ["PLAIN"]')
    if not set(table) <= {"user", "password", "token"} or not all(isinstance(text, str) for text in table.values()):
        raise MailsvcError(f"{where} has strings user, password and token only, and a list mechanisms")
    if "password" in table and "token" in table:
        raise MailsvcError(f"{where} has a password and a token; leave out one of them")
    kind = next((kind for kind in (LoginKind.PASSWORD, LoginKind.TOKEN) if kind.value in table), LoginKind.CERTIFICATE)
    try:
        return RelayLogin(label, kind, table.get("user", ""), table.get(kind.value, ""), tuple(mechanisms))
    except MailsvcError as error:
        raise MailsvcError(f"{path}: {error}") from None


def _problems(login: RelayLogin) -> list[str]:
    found = []
    if not LABEL.match(login.label):
        found.append("a label has letters, digits and . _ - only, 64 at most")
    if not login.user and login.kind is not LoginKind.CERTIFICATE:
        found.append("a user name is missing")
    if not login.user.isprintable() or len(login.user.encode("utf-8", "surrogatepass")) > USER_LIMIT:
        found.append(f"the user name holds a control character, or has more than {USER_LIMIT} octets")
    if bool(login.secret) is (login.kind is LoginKind.CERTIFICATE):
        needs = "has no secret of its own" if login.secret else "is empty"
        found.append(f"the {login.kind.value} {needs}")
    if login.mechanisms and login.kind is not LoginKind.PASSWORD:
        found.append(f"a {login.kind.value} has one mechanism only; mechanisms are for passwords")
    if strange := [name for name in login.mechanisms if name not in PASSWORD_MECHANISMS]:
        found.append(f"{strange[0][:40]!a} is no mechanism for a password; there are {', '.join(PASSWORD_MECHANISMS)}")
    # NUL would end the password in a PLAIN response (RFC 4616 section 2), CR and LF a line.
    if not login.secret.isprintable() or len(login.secret.encode("utf-8", "surrogatepass")) > SECRET_LIMIT:
        found.append(f"the {login.kind.value} holds a control character, or has more than {SECRET_LIMIT} octets")
    return found
