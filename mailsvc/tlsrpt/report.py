"""What a TLS report says, as values and as the JSON of RFC 8460 section 4.

Pure.  Counting is `mailsvc.storage.tls_reports`, judging a session `mailsvc.relay.telling`.

The hardest idea: a report is about a policy, not about a host.  A session counts for the one policy that held for it
(TLSA records before MTA-STS, RFC 8461 section 2; "no policy" is one, too), and a domain in testing mode hears of
failures of sessions that delivered mail.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailsvc.mail.channel import safe_text

DAY = 86400

STRINGS_LIMIT = 100
"""Strings of a policy in a report."""

TEXT_LIMIT = 300


@dataclass(frozen=True, slots=True)
class Policy:
    """What held.  ``kind``: "tlsa", "sts" or "no-policy-found"; ``strings``: its lines; ``mx``: the patterns of sts."""

    kind: str
    domain: str
    strings: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()

    def json(self) -> str:
        """As it stands in a report; equal for equal policies."""
        found: dict[str, Any] = {"policy-type": self.kind}
        if self.strings:
            found["policy-string"] = [safe_text(each, TEXT_LIMIT) for each in self.strings[:STRINGS_LIMIT]]
        found["policy-domain"] = self.domain
        if self.mx:
            found["mx-host"] = list(self.mx[:STRINGS_LIMIT])
        return json.dumps(found)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session failed; ``kind`` is a result type of section 4.3, ``why`` our sentence."""

    kind: str
    host: str
    address: str = ""
    why: str = ""

    def json(self) -> str:
        """As it stands in a report, without the count."""
        found = {"result-type": self.kind, "receiving-mx-hostname": self.host}
        if self.address:
            found["receiving-ip"] = self.address
        if self.why:
            found["failure-reason-code"] = safe_text(self.why, TEXT_LIMIT)
        return json.dumps(found)


@dataclass(frozen=True, slots=True)
class Counted:
    """So many sessions; ``policy`` and ``failure`` ("" for a good session) are the JSON of the values above."""

    policy: str
    failure: str
    sessions: int


@dataclass(frozen=True, slots=True)
class Report:
    """One day (UTC, days since the epoch) of one domain, by us."""

    domain: str
    day: int
    organization: str
    contact: str
    id: str

    @property
    def file_name(self) -> str:
        """The name of the file (section 5.1), without quotes or blanks in it."""
        return f"{self.organization}!{self.domain}!{self.day * DAY}!{(self.day + 1) * DAY - 1}!{self.id}.json.gz"

    @property
    def subject(self) -> str:
        """The Subject of the mail (section 5.3)."""
        return f"Report Domain: {self.domain} Submitter: {self.organization} Report-ID: <{self.id}@{self.organization}>"

    def octets(self, counted: Sequence[Counted]) -> bytes:
        """The report as it is sent: JSON, compressed."""
        text = json.dumps(self._values(counted), indent=1)
        # Without the time of compression, so that the same report has the same octets.
        return gzip.compress(text.encode("ascii"), mtime=0)

    def _values(self, counted: Sequence[Counted]) -> dict[str, Any]:
        by_policy: dict[str, list[Counted]] = {}
        for each in counted:
            by_policy.setdefault(each.policy, []).append(each)
        return {
            "organization-name": self.organization,
            "date-range": {
                "start-datetime": _moment(self.day * DAY),
                "end-datetime": _moment((self.day + 1) * DAY - 1),
            },
            "contact-info": self.contact,
            "report-id": f"{self.id}@{self.organization}",
            "policies": [_of_policy(policy, sessions) for policy, sessions in by_policy.items()],
        }


def _of_policy(policy: str, sessions: Sequence[Counted]) -> dict[str, Any]:
    failed = [each for each in sessions if each.failure]
    found: dict[str, Any] = {
        "policy": json.loads(policy),
        "summary": {
            "total-successful-session-count": sum(each.sessions for each in sessions if not each.failure),
            "total-failure-session-count": sum(each.sessions for each in failed),
        },
    }
    if failed:
        found["failure-details"] = [
            {**json.loads(each.failure), "failed-session-count": each.sessions} for each in failed
        ]
    return found


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
