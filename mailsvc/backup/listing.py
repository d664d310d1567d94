"""A list of recipients as text: the file that a postmaster writes, and what travels from the primary to its backup.

The file has a name or an address on each line; what stands behind it on the line does not matter, so that a table for
another mail server's ``relay_recipient_maps`` can be taken as it is.  Addresses of other domains are passed over: one
file may serve several.  ``@example.org`` or ``*`` takes every name.

What travels is JSON with fixed names.  The hardest idea: it comes from a server that may be broken into, so it is read
as strictly as anything from outside.  Nothing in it can be more than a wrong list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from mailsvc.backup.forms import MOST_NAMES, NameRules, RecipientList, recipient_list
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError, parse_address, parse_domain

FORMAT = "mailsvc recipients 1"

LIST_LIMIT = MOST_NAMES * 2 * 68 + 4096
"""Octets of a list that travels: every name in two forms."""

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_FLAGS = ("ignore_dots", "exact_case", "catch_all", "rewrites")
_RESERVED = (("postmaster", True),)
# RFC 5321 section 4.5.1: whoever takes mail for a domain takes its postmaster's.


class ListError(MailsvcError):
    """That is no list of recipients; the message says why."""


def names_in(lines: Iterable[str], domain: str) -> tuple[list[str], bool]:
    """The names of ``domain`` in a file, and whether it takes all others too.  Raises `ListError` with the line."""
    names: dict[str, None] = {}
    catch_all = False
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip() if line.lstrip().startswith("#") else line.strip()
        word = word.split(None, 1)[0] if word else ""
        if not word:
            continue
        try:
            name = name_of(word, domain)
        except AddressError as error:
            raise ListError(f"line {number}: {error}") from None
        if name == "":
            catch_all = True
        elif name is not None:
            names[name] = None
        if len(names) > MOST_NAMES:
            raise ListError(f"line {number}: there are more than {MOST_NAMES} names; take the primary's list instead")
    return list(names), catch_all


def name_of(word: str, domain: str) -> str | None:
    """The name that a line means: "" for every name, None for one of another domain.  Raises `AddressError`."""
    if word in ("*", f"*@{domain}") or (word.startswith("@") and word[1:].lower() == domain):
        return ""
    if word.startswith("@"):
        parse_domain(word[1:])
        return None
    address = parse_address(word if "@" in word else f"{word}@{domain}")
    return address.name if address.domain == domain else None


def list_in_clear(domain: str, names: Iterable[str], *, separator: str, catch_all: bool) -> RecipientList:
    """The list that names of a file or a table make; its postmaster is always in it."""
    rules = NameRules(separator, catch_all=catch_all)
    return recipient_list(domain, rules, ((name, True) for name in names), _RESERVED, None)


def written(found: RecipientList) -> bytes:
    """The list as it travels; equal lists are equal octets."""
    rules = found.rules
    value = {
        "format": FORMAT,
        "domain": found.domain,
        "separator": rules.separator,
        **{flag: getattr(rules, flag) for flag in _FLAGS},
        # In the order of the digests, which says nothing of the names.
        "accepted": sorted(found.accepted),
        "refused": sorted(found.refused),
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_list(octets: bytes, domain: str) -> RecipientList:
    """The list of ``domain`` from what has travelled.  Raises `ListError`."""
    if len(octets) > LIST_LIMIT:
        raise ListError(f"the list has more than {LIST_LIMIT} octets")
    try:
        value = json.loads(octets.decode("ascii"))
    except (ValueError, RecursionError):
        raise ListError("that is no list of recipients (not JSON in ASCII)") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ListError("that is no list of recipients, or one of another version of mailsvc")
    if value.get("domain") != domain:
        raise ListError(f"that is the list of another domain than {domain}")
    separator = value.get("separator")
    if not isinstance(separator, str) or len(separator) > 1:
        raise ListError("the list has no separator of details")
    flags = [flag for flag in map(value.get, _FLAGS) if isinstance(flag, bool)]
    if len(flags) != len(_FLAGS):
        raise ListError("the list does not say what the domain does with names")
    return RecipientList(
        domain, NameRules(separator, *flags), _digests(value.get("accepted")), _digests(value.get("refused"))
    )


def _digests(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and _DIGEST.match(each) for each in value):
        raise ListError("the list holds something else than digests")
    return frozenset(value)
