"""A resolver that says what a test has written down; for mail that goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailsvc.resolver import Answer, MailHost, Unanswered
from mailsvc.tls.dane import TLSARecord

NOBODY = object()
"""Instead of records: nobody can say."""


class FakeResolver:
    """``mx``: (preference, host) by domain; ``hosts``: addresses by host; ``txt`` and ``records`` (TLSA) by name.

    What is not there does not exist; `NOBODY` instead of records: no answer comes.  ``signed``: the names for which
    DNSSEC vouches.  ``asked``: all questions.
    """

    def __init__(
        self,
        mx: Mapping[str, Any] | None = None,
        hosts: Mapping[str, Any] | None = None,
        txt: Mapping[str, Any] | None = None,
        records: Mapping[str, Any] | None = None,
        *,
        signed: Sequence[str] = (),
        doubt: str = "",
        seconds: int = 300,
    ) -> None:
        self.mx = dict(mx or {})
        self.hosts = dict(hosts or {})
        self.txt = dict(txt or {})
        self.records = dict(records or {})
        self.signed = set(signed)
        self.doubt = doubt
        self.seconds = seconds
        self.asked: list[tuple[str, str]] = []

    async def addresses(self, name: str) -> Answer[str]:
        return self._answer("A", name, self.hosts)

    async def mail_hosts(self, domain: str) -> Answer[MailHost]:
        found = self._answer("MX", domain, self.mx)
        hosts = tuple(MailHost(*each) for each in found.records)
        return Answer(hosts, found.authentic, found.doubt, found.canonical, found.seconds)

    async def texts(self, name: str) -> Answer[str]:
        return self._answer("TXT", name, self.txt)

    async def tlsa(self, name: str) -> Answer[TLSARecord]:
        return self._answer("TLSA", name, self.records)

    def _answer(self, kind: str, name: str, table: Mapping[str, Any]) -> Answer[Any]:
        self.asked.append((kind, name))
        found = table.get(name, ())
        if found is NOBODY:
            raise Unanswered(f"{name} ({kind}) could not be looked up: no resolver answers in time")
        authentic = not self.doubt and name in self.signed
        doubt = "" if authentic else self.doubt or f"DNSSEC does not vouch for {name}"
        return Answer(tuple(found), authentic, doubt, name, self.seconds if found else 0)
