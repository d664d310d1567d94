"""What a conversation is begun with: the check of the server's certificate, our own certificate, our login.

A relay's URL names files and labels; here they become a `ClientTLS` and a `RelayLogin`.  Which level is demanded is
decided by others.

The hardest idea is age.  Reading the system's roots takes many milliseconds, so what was made is kept for ten minutes:
a root or a certificate that was replaced is then in use, and no reload is needed.  Logins are looked up for each
connection, because somebody who has mended one wants it to be used.  What blocks happens in a thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import Passphrase, read_chain, read_key
from mailsvc.certkit.places import CHAIN, KEY
from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.channel import safe_text
from mailsvc.relay.client import server_policy
from mailsvc.relay.logins import RelayLogin, read_logins
from mailsvc.relay.url import Relay, Scheme, Verify
from mailsvc.storage.routes import login_row, opened
from mailsvc.storage.store import Store
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.sealing import SealingKey
from mailsvc.tls.sessions import SessionStore

FRESH = 600.0
"""Seconds for which files need not be read again."""

MOST = 50
"""Policies whose `ClientTLS` is kept."""


_WEB = Relay(Scheme.TLS, "", 25, Verify.NAME)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie.  ``certs``: the folder of certificates; ``credentials``: the file of logins, None for none.

    ``passphrase`` opens private keys in files, ``key`` the secrets in the database; both may block.
    """

    certs: Path
    passphrase: Passphrase
    key: Callable[[], SealingKey | None]
    credentials: Path | None = None


class Means:
    """Makes and keeps them.  ``in_thread`` runs what blocks; ``make`` is for tests."""

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        places: Places,
        in_thread: Callable[[Callable[[], object]], Deferred[object]],
        *,
        make: Callable[[ServerPolicy, SessionStore], ClientTLS] = lambda policy, kept: ClientTLS(policy, sessions=kept),
    ) -> None:
        self._store = store
        self._clock = clock
        self._places = places
        self._in_thread = in_thread
        self._make = make
        self._sessions = SessionStore(lambda: datetime.now(UTC))
        self._kept: OrderedDict[tuple[object, Level, str | None], tuple[float, ClientTLS]] = OrderedDict()

    async def tls(self, relay: Relay, required: Level) -> ClientTLS:
        """What checks the servers of this relay.  Raises `TemporaryFailure` when roots or our certificate cannot be
        used."""
        level = max(relay.required, required)
        key = (relay.trust, level, relay.cert)
        now = self._clock.seconds()
        kept = self._kept.get(key)
        if kept is not None and 0 <= now - kept[0] < FRESH:
            return kept[1]

        def make() -> object:
            credential = None if relay.cert is None else self._credential(relay.cert)
            return self._make(server_policy(relay, required, credential), self._sessions)

        try:
            made = await self._in_thread(make)
        except SSL.Error as error:
            raise TemporaryFailure(f"the certificate {relay.cert} cannot be used ({safe_text(str(error))})") from error
        except MailsvcError as error:
            raise TemporaryFailure(str(error)) from error
        assert isinstance(made, ClientTLS)
        self._kept[key] = now, made
        self._kept.move_to_end(key)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return made

    async def web(self) -> ClientTLS:
        """What checks web servers: their name, by the system's roots.  Raises `TemporaryFailure`."""
        return await self.tls(_WEB, Level.NAME)

    async def login(self, label: str) -> RelayLogin:
        """The credentials of this label: of the file, or else of the database.  Raises `TemporaryFailure`."""
        try:
            if self._places.credentials is not None:
                path = self._places.credentials
                found = await self._in_thread(lambda: read_logins(path).get(label))
                if isinstance(found, RelayLogin):
                    return found
            row = await self._store.read(login_row, label)
            if row is None:
                raise TemporaryFailure(
                    f"there are no credentials {label}; `mailsvc route credentials add {label} --user NAME` adds them"
                )
            made = await self._in_thread(lambda: opened(row, self._places.key() if row.sealed_by else None))
        except TemporaryFailure:
            raise
        except MailsvcError as error:
            raise TemporaryFailure(str(error)) from error
        assert isinstance(made, RelayLogin)
        return made

    def _credential(self, name: str) -> Credential:
        """Blocks."""
        folder = Path(name) if name.startswith("/") else self._places.certs / name
        chain, findings = read_chain(read(folder / CHAIN))
        key, more = read_key(
            read(folder / KEY), self._places.passphrase, cure="say in MAILSVC_KEY_PASSPHRASE_FILE which file has it"
        )
        errors = [str(each) for each in (*findings, *more) if each.severity == "error"]
        if errors or key is None:
            raise MailsvcError("; ".join(errors) or f"{folder}: there is no private key")
        try:
            return make_credential(name, chain, key)
        except ValueError as error:
            raise MailsvcError(f"{folder}: {error}; give the two that were made together") from error
