"""The two texts of MTA-STS as values: the TXT record that says there is a policy, and the policy (RFC 8461 section 3).

Pure; who looks them up and fetches them is `mailsvc.mtasts.fetch`.

The hardest idea: which mistakes forgive and which do not.  Unknown fields are for the future and are passed over
(section 3.2: they are not an error), but a policy whose version, mode or age cannot be read is no policy at all:
guessed into something weaker it would let mail go where its domain forbade it, guessed into something stronger it would
stop mail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError, parse_domain

POLICY_LIMIT = 65536
"""Octets of a policy that are read (section 3.3 suggests 64 KB)."""

LONGEST_AGE = 31_557_600
"""Seconds: the largest max_age (section 3.2)."""

_MOST_PATTERNS = 1000

_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")


class PolicyError(MailsvcError):
    """The text is no policy, or no record; the message says what is wrong with it."""


class PolicyMode(Enum):
    """What is to be done with a host that does not fit (section 5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A policy: ``mx`` are host names and patterns ``*.domain`` in lower case, ``max_age`` is in seconds."""

    mode: PolicyMode
    mx: tuple[str, ...]
    max_age: int

    def allows(self, host: str) -> bool:
        """Whether an MX host of this name fits (section 4.1): a wildcard stands for exactly one label."""
        name = host.lower().rstrip(".")
        above = name.partition(".")[2]
        return name in self.mx or (bool(above) and f"*.{above}" in self.mx)


def record_id(texts: Iterable[str]) -> str | None:
    """The id in the TXT records of ``_mta-sts.DOMAIN``; None when there is none (section 3.1).

    Raises `PolicyError` for two of them, which count as none, or for one that cannot be read.
    """
    ours = [text for text in texts if re.match(r"v=STSv1\s*(;|\Z)", text)]
    if not ours:
        return None
    if len(ours) > 1:
        raise PolicyError(f"there are {len(ours)} records that begin with v=STSv1; there may be one")
    fields = [part.partition("=") for part in ours[0].split(";")[1:] if part.strip()]
    found = [value.strip() for name, _, value in fields if name.strip() == "id"]
    if not found or not _ID.match(found[0]):
        raise PolicyError("the record has no id of 1 to 32 letters and digits")
    return found[0]


def parse_policy(body: bytes) -> StsPolicy:
    """The policy in the body of ``https://mta-sts.DOMAIN/.well-known/mta-sts.txt``.  Raises `PolicyError`."""
    if len(body) > POLICY_LIMIT:
        raise PolicyError(f"the policy has more than {POLICY_LIMIT} octets")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError("the policy is not UTF-8") from None
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in re.split(r"\r?\n", text):
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon or not _KEY.match(key):
            raise PolicyError(f"the policy has a line that is no field: {line[:60]!r}")
        if key == "mx":
            patterns.append(_pattern(value.strip()))
        else:
            # Of a field that stands there twice the first counts (section 3.2).
            fields.setdefault(key, value.strip())
    return _policy(fields, patterns)


def _policy(fields: dict[str, str], patterns: list[str]) -> StsPolicy:
    if fields.get("version") != "STSv1":
        raise PolicyError("the policy does not say version: STSv1")
    try:
        mode = PolicyMode(fields.get("mode", ""))
    except ValueError:
        raise PolicyError("the policy's mode is none of enforce, testing, none") from None
    age = fields.get("max_age", "")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise PolicyError("the policy has no max_age in seconds")
    if not patterns and mode is not PolicyMode.NONE:
        raise PolicyError("the policy names no mx")
    if len(patterns) > _MOST_PATTERNS:
        raise PolicyError(f"the policy names more than {_MOST_PATTERNS} mx")
    return StsPolicy(mode, tuple(dict.fromkeys(patterns)), min(int(age), LONGEST_AGE))


def _pattern(text: str) -> str:
    host = text.removeprefix("*.")
    try:
        name = parse_domain(host.rstrip("."))
    except AddressError:
        raise PolicyError(f"the policy's mx {text[:60]!r} is no host name") from None
    return f"*.{name}" if host != text else name
