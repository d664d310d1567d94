"""Under which texts a name stands in a list of recipients, and what a list says of a name.

The primary knows details, dots and case (`mailsvc.directory.resolve`).  A backup that only compared whole addresses
would refuse ``alice+shop``.  So a list holds the *forms* of each name, and the few rules of the domain; `judge` asks in
the order in which the resolver looks.

In a list that travels each form is hidden: HMAC-SHA256 (RFC 2104) with a key that the two servers share, over the
domain, the form and the name.  Without the key nobody can tell which names are meant, not even by trying all names that
there are, which for a plain hash takes minutes.  What a list does tell is about how many names there are.  Whoever has
the key can try names, so it belongs to the two servers alone.

The hardest idea: a list also says *no*.  Where all names are taken (a catch-all), an account that is disabled is
refused by the primary all the same; and where dots do not count, a name that may mean two people is.  So an entry is
accepted or refused, and the first form that the list has decides.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from mailsvc.directory.tables import RESERVED, DomainRules
from mailsvc.mail.address import Address
from mailsvc.relay.srs import is_rewritten

MOST_NAMES = 200_000
"""Names of one domain that a list may hold."""

_PURPOSE = b"mailsvc recipients 1"


@dataclass(frozen=True, slots=True)
class NameRules:
    """What a domain does with names.

    ``separator``: the character from which on a name is detail, "" for none.  ``catch_all``: names that are not in the
    list are taken, too.  ``rewrites``: the primary gives senders of forwarded mail addresses that only it can check.
    """

    separator: str = ""
    ignore_dots: bool = False
    exact_case: bool = False
    catch_all: bool = False
    rewrites: bool = False


class Form(Enum):
    """How a name stands in a list."""

    RESERVED = "!"
    """``postmaster`` or ``abuse`` as the whole name, without a detail."""
    EXACT = "="
    """The name with its dots."""
    DOTLESS = "~"
    """The name without its dots, where they do not count."""


class Verdict(Enum):
    """What follows for a recipient."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    LATER = "later"
    """It cannot be known here and now."""


@dataclass(frozen=True, slots=True)
class RecipientList:
    """What a primary, a file or a table says of a domain.  ``accepted`` and ``refused``: entries, see `entry`."""

    domain: str
    rules: NameRules
    accepted: frozenset[str]
    refused: frozenset[str] = frozenset()


def entry(form: Form, text: str, domain: str, key: bytes | None) -> str:
    """The entry of a form: in clear for ``key`` None, else 64 hexadecimal digits."""
    clear = form.value + text
    if key is None:
        return clear
    octets = b"\0".join((_PURPOSE, domain.encode("ascii"), clear.encode("utf-8", "surrogatepass")))
    return hmac.digest(key, octets, hashlib.sha256).hex()


def name_rules(rules: DomainRules, *, catch_all: bool, rewrites: bool) -> NameRules:
    """The rules of a domain of ours, as a list tells them."""
    return NameRules(rules.separator, rules.ignore_dots, rules.exact_case, catch_all, rewrites)


def recipient_list(
    domain: str,
    rules: NameRules,
    names: Iterable[tuple[str, bool]],
    reserved: Iterable[tuple[str, bool]],
    key: bytes | None,
) -> RecipientList:
    """The list of these names, each with whether it is accepted.

    ``reserved``: of the names in `RESERVED`, what becomes of mail for them, whether somebody has the name or not.
    """
    exact: dict[str, bool] = {}
    dotless: dict[str, dict[str, bool]] = {}
    for name, accepted in names:
        text = _normal(name, rules)
        # An alias and an account may share a name; each counts as it is written.
        exact[text] = exact.get(text, False) or accepted
        if rules.ignore_dots:
            dotless.setdefault(text.replace(".", ""), {})[name.casefold()] = accepted
    forms = [(Form.EXACT, text, accepted) for text, accepted in exact.items()]
    # Two that differ by dots only: nobody knows which is meant.
    forms += [(Form.DOTLESS, text, len(same) == 1 and all(same.values())) for text, same in dotless.items()]
    forms += [(Form.RESERVED, name, accepted) for name, accepted in reserved]
    entries: dict[bool, set[str]] = {True: set(), False: set()}
    for form, text, accepted in forms:
        entries[accepted].add(entry(form, text, domain, key))
    return RecipientList(domain, rules, frozenset(entries[True]), frozenset(entries[False]))


def judge(address: Address, rules: NameRules, known: Callable[[str], bool | None], key: bytes | None) -> Verdict:
    """What a list says of ``address``.

    ``known``: whether an entry is accepted, None when the list does not have it.
    """
    name = address.name
    for form, text in _questions(name, rules):
        accepted = known(entry(form, text, address.domain, key))
        if accepted is not None:
            return Verdict.ACCEPT if accepted else Verdict.REFUSE
    if rules.catch_all and name.casefold() not in RESERVED:
        return Verdict.ACCEPT
    # Whether a bounce is for somebody whose mail was forwarded is known to the primary's secret only.
    return Verdict.LATER if rules.rewrites and is_rewritten(address) else Verdict.REFUSE


def _questions(name: str, rules: NameRules) -> Iterator[tuple[Form, str]]:
    """The forms of a name, in the order in which the resolver looks."""
    if name.casefold() in RESERVED:
        yield Form.RESERVED, name.casefold()
    base, separator, _ = name.partition(rules.separator) if rules.separator else (name, "", "")
    for each in (name, base) if separator and base else (name,):
        text = _normal(each, rules)
        yield Form.EXACT, text
        if rules.ignore_dots:
            yield Form.DOTLESS, text.replace(".", "")


def _normal(name: str, rules: NameRules) -> str:
    folded = name.casefold()
    return name if rules.exact_case and folded not in RESERVED else folded
