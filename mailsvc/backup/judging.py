"""What RCPT is answered in a domain that we are a backup for.

The list is in the database (`mailsvc.storage.backups`), its key in a file (`mailsvc.backup.keys`).  The hardest idea is
what to say when neither yes nor no is known: 451 and never 250.  The sender keeps the message and comes again; had we
taken it, we would have to return it later to an address that may be forged, and that is what a list is for.
"""

from __future__ import annotations

from twisted.logger import Logger

from mailsvc.backup.forms import Verdict
from mailsvc.backup.keys import Keys
from mailsvc.errors import TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.mail.reply import Reply, reply
from mailsvc.storage.backups import backup, verdict
from mailsvc.storage.store import Store

UNKNOWN = reply(550, "5.1.1", "No such user, says the server of this domain")
LATER = reply(451, "4.4.3", "Whether this user exists is not known here now; try again later")


_IN_WORDS = {
    Verdict.ACCEPT: "this server is a backup for the domain, and its list of recipients has the name",
    Verdict.REFUSE: "this server is a backup for the domain, and its list of recipients does not have the name",
    Verdict.LATER: "this server is a backup for the domain, and does not know now whether the recipient exists",
}


def in_words(found: Verdict) -> tuple[Reply | None, str]:
    """What RCPT says (None: it takes the recipient), and why."""
    return {Verdict.ACCEPT: None, Verdict.REFUSE: UNKNOWN, Verdict.LATER: LATER}[found], _IN_WORDS[found]


class BackupRecipients:
    """Answers for the domains of other servers."""

    _log = Logger()

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._told = ""

    async def refusal(self, address: Address, otherwise: Reply) -> Reply | None:
        """The reply that refuses ``address``, None to take it; ``otherwise`` when we are no backup for its domain.

        Raises `TemporaryFailure` when the database cannot be asked.
        """
        row = await self._store.read(backup, address.domain)
        if row is None:
            return otherwise
        key = None
        if row.is_hashed and row.got is not None:
            try:
                key = await self._keys.key(row.key_file)
            except TemporaryFailure as why:
                self._tell(address.domain, str(why))
                return LATER
        found = await self._store.read(verdict, address, key)
        return otherwise if found is None else in_words(found)[0]

    def _tell(self, domain: str, why: str) -> None:
        if why != self._told:
            self._told = why
            self._log.error("recipients in {domain} are put off: {why}", domain=domain, why=why)
