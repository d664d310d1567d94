"""What the resolver asks the tables, and what they answer.

The tables are a `Protocol`, so that the walk in `mailsvc.directory.resolve` is a pure function of them: dictionaries in
the tests, one read transaction in the service (`mailsvc.storage.aliases`).

A `key` is `Address.key`, or is made like one by `key_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mailsvc.mail.address import Address

RESERVED = frozenset({"postmaster", "abuse"})
"""Names that every domain has (RFC 5321 section 4.5.1, RFC 2142), in any case."""


@dataclass(frozen=True, slots=True)
class DomainRules:
    """What a domain does with names.

    ``separator``: the character from which on a name is detail, "" for none.  ``default_quota``: octets, or None.
    """

    name: str
    separator: str = "+"
    ignore_dots: bool = False
    exact_case: bool = False
    catch_all: Address | None = None
    postmaster: Address | None = None
    default_quota: int | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An account as a delivery sees it.  ``used`` and ``quota`` are octets; the quota is the one in force, or None."""

    id: int
    address: Address
    disabled: bool = False
    used: int = 0
    quota: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A program as a recipient: its path and its arguments, as they are given to the kernel and never to a shell."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        return "the program " + " ".join(ascii(word) if _needs_quotes(word) else word for word in self.argv)


Target = Address | Program
"""Where an alias may lead."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """A program that gets mail for ``address``, the alias that leads to it; behind another alias it is another."""

    address: Address
    program: Program


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """An alias with all its targets; ``address`` is its own name as it was written."""

    address: Address
    targets: tuple[Target, ...]


class Tables(Protocol):
    """What is known of our domains, at one moment."""

    def domain(self, name: str) -> DomainRules | None:
        """The rules of a domain, None when it is not ours."""

    def alias(self, key: str) -> AliasEntry | None:
        """The alias of this key."""

    def mailbox(self, key: str) -> Mailbox | None:
        """The account of this key, also one that is disabled."""

    def without_dots(self, key: str, domain: str) -> Sequence[str]:
        """The keys of aliases and accounts of ``domain`` that are ``key`` when dots in the name do not count."""

    def oldest(self, domain: str | None) -> Mailbox | None:
        """The oldest account of ``domain`` (of all domains for None) that is not disabled."""


def key_of(name: str, domain: str) -> str:
    """The key of an address whose unquoted local part is ``name``."""
    return f"{name.casefold()}@{domain}"


def _needs_quotes(word: str) -> bool:
    return not word or not word.isprintable() or any(c in " \"'\\" for c in word)
