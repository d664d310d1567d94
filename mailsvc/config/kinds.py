"""What one setting may be: kinds of values, each turning what was written into what is used.

A kind takes what TOML or the command line gave (a str, int, float, bool or list) and returns the value, or
raises `Mistake` with the words that follow the setting's name in the report. Which settings exist, and how
several sources are combined, is `settings.py` and `layers.py`.

The hardest idea is that a kind never knows whose setting it is: names, defaults and help stand in one table
in `settings.py`, so that the report, `config describe` and the documentation cannot disagree.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailsvc.config.endpoint import endpoint_mistake


class Mistake(ValueError):
    """What is wrong with a value, and the cure; the setting's name is put in front by the caller."""


class Kind(Protocol):
    """A kind of setting: `parse` raises `Mistake`, `allowed` is a few words for people."""

    def parse(self, raw: object) -> object: ...

    @property
    def allowed(self) -> str: ...


def shown(value: object) -> str:
    """A value as TOML would write it, at most about 60 characters of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    text = str(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'


@dataclass(frozen=True, slots=True)
class Switch:
    """true or false."""

    allowed: str = "true or false"

    def parse(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        raise Mistake(f"{shown(raw)} is neither true nor false (without quotes)")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(f'"{word}"' for word in self.words)

    def parse(self, raw: object) -> str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        raise Mistake(f"{shown(raw)} is not known; give {self.allowed}")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `least` to `most`, both allowed."""

    unit: str
    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"{self.least} to {self.most} {self.unit}"

    def parse(self, raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise Mistake(f"{shown(raw)} is not a whole number; give {self.allowed}, without quotes")
        if not self.least <= raw <= self.most:
            raise Mistake(f"{raw} is out of range; give {self.allowed}")
        return raw


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time in seconds, a fraction too, from `least` to `most`."""

    least: float
    most: float

    @property
    def allowed(self) -> str:
        return f"{self.least:g} to {self.most:g} seconds"

    def parse(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, (int, float)):
            raise Mistake(f"{shown(raw)} is not a number; give {self.allowed}, without quotes")
        if not self.least <= raw <= self.most:  # NaN is in no range, so it is refused here
            raise Mistake(f"{shown(raw)} is out of range; give {self.allowed}")
        return float(raw)


@dataclass(frozen=True, slots=True)
class Words:
    """A few words of ASCII that a POP3 server may say, or nothing.

    Not with angle brackets, which would be APOP's timestamp (RFC 1939 section 7), and not with a bracket in front,
    which would be a response code (RFC 2449 section 8).
    """

    allowed: str = "up to 200 printable ASCII characters, no < or >, not beginning with ["

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Mistake(f"{shown(raw)} is not a string; give {self.allowed}")
        if len(raw) > 200 or not (raw.isascii() and raw.isprintable()) or set(raw) & set("<>") or raw[:1] == "[":
            raise Mistake(f"{shown(raw)} cannot be said; give {self.allowed}")
        return raw.strip()


@dataclass(frozen=True, slots=True)
class OptionalPlace:
    """A host, a URL, or "" for none; what it means is for those who use it."""

    allowed: str = 'up to 2000 printable ASCII characters without blanks, or "" for none'

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Mistake(f"{shown(raw)} is not a string; give {self.allowed}")
        if len(raw) > 2000 or not (raw.isascii() and raw.isprintable()) or " " in raw:
            raise Mistake(f"{shown(raw)} is no place; give {self.allowed}")
        return raw


@dataclass(frozen=True, slots=True)
class Folder:
    """The path of a folder; whether it exists is for those who open it."""

    allowed: str = "path of a folder"

    def parse(self, raw: object) -> Path:
        return Path(_path_text(raw, self.allowed))


@dataclass(frozen=True, slots=True)
class DatabaseName:
    """A file, or a URL (anything with `://`); the storage says which URLs it can open."""

    allowed: str = "path of a file, or a URL"

    def parse(self, raw: object) -> str:
        return _path_text(raw, self.allowed)


@dataclass(frozen=True, slots=True)
class OptionalFile:
    """The path of a file, or "" for none; whether it exists is for those who open it."""

    allowed: str = 'path of a file, or "" for none'

    def parse(self, raw: object) -> str:
        return "" if raw == "" else _path_text(raw, self.allowed)


@dataclass(frozen=True, slots=True)
class OptionalPath:
    """The path of a file or a folder, or "" for none; whether it exists is for those who open it."""

    allowed: str = 'path of a file or a folder, or "" for none'

    def parse(self, raw: object) -> Path | None:
        return None if raw == "" else Path(_path_text(raw, self.allowed))


def _path_text(raw: object, allowed: str) -> str:
    if not isinstance(raw, str):
        raise Mistake(f"{shown(raw)} is not a string; give the {allowed}, in quotes")
    if not raw.strip():
        raise Mistake(f"it is empty; give the {allowed}")
    if "\0" in raw:
        raise Mistake(f"it holds a NUL character; give the {allowed}")
    return raw


@dataclass(frozen=True, slots=True)
class Networks:
    """A list of IP addresses and networks."""

    allowed: str = 'list of networks such as ["192.0.2.0/24", "2001:db8::/32"]'

    def parse(self, raw: object) -> tuple[str, ...]:
        if not isinstance(raw, (list, tuple)):
            raise Mistake(f"{shown(raw)} is not a list; give a {self.allowed}")
        for text in raw:
            try:
                if not isinstance(text, str):
                    raise ValueError("it is not a string")
                ipaddress.ip_network(text)
            except ValueError:
                raise Mistake(f"{shown(text)} is not an IP network; give a {self.allowed}") from None
        return tuple(raw)


@dataclass(frozen=True, slots=True)
class Zones:
    """A list of DNS zones, each with a weight or without one."""

    allowed: str = 'list of zones such as ["bl.example.net", "good.example.org*-2"]'

    def parse(self, raw: object) -> tuple[str, ...]:
        if not isinstance(raw, (list, tuple)):
            raise Mistake(f"{shown(raw)} is not a list; give a {self.allowed}")
        for text in raw:
            zone, star, weight = text.partition("*") if isinstance(text, str) else ("", "", "")
            # The question about an IPv6 address puts 64 characters in front, and a name has 253.
            named = len(zone) <= 180 and len(zone.split(".")) > 1
            if not named or not all(_LABEL.fullmatch(label) for label in zone.lower().split(".")):
                raise Mistake(f"{shown(text)} is not a DNS zone; give a {self.allowed}")
            if star and not re.fullmatch(r"-?[0-9]{1,3}", weight):
                raise Mistake(f"{shown(weight)} is not a weight from -999 to 999; give a {self.allowed}")
        return tuple(raw)


_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


def hostname_mistake(name: str) -> str | None:
    """Why `name` cannot be a service's own name (RFC 5321 section 2.3.5, RFC 1123 section 2.1), or None."""
    if not name:
        return "it is empty"
    if not name.isascii():
        return f"{shown(name)} is not ASCII: write the name in its xn-- form"
    lowered = name.lower()
    if lowered == "localhost":
        return None
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        return f"{shown(name)} is an IP address, not a name"
    if lowered.endswith("."):
        return f"{shown(name)} ends in a dot: leave that away"
    if len(lowered) > 253:
        return f"{shown(name)} has {len(lowered)} characters, 253 are allowed"
    labels = lowered.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            return (
                f"{shown(name)} is not a host name: between dots stand 1 to 63 letters, digits or hyphens,"
                " no hyphen first or last"
            )
    if len(labels) < 2:
        return f"{shown(name)} is not a full name: it needs a domain, as in mail.example.org"
    if labels[-1].isdigit():
        return f"{shown(name)} ends in a number, which no domain does"
    if lowered.endswith((".in-addr.arpa", ".ip6.arpa")):
        return f"{shown(name)} is an address written as a name"
    return None


@dataclass(frozen=True, slots=True)
class Hostname:
    """The fully qualified name of this service, in lower case; `localhost` too (RFC 6761 section 6.3)."""

    allowed: str = "full name such as mail.example.org"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Mistake(f"{shown(raw)} is not a string; give a {self.allowed}, in quotes")
        mistake = hostname_mistake(raw)
        if mistake:
            raise Mistake(f"{mistake}; give the {self.allowed} under which others reach this service")
        return raw.lower()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a listener listens: endpoint descriptions, as one string or a list; "" or [] turns it off."""

    allowed: str = 'endpoint strings such as "tcp:25:interface=127.0.0.1", or "" for off'

    def parse(self, raw: object) -> tuple[str, ...]:
        texts = [raw] if isinstance(raw, str) else raw
        if not isinstance(texts, (list, tuple)):
            raise Mistake(f"{shown(raw)} is not a string; give {self.allowed}, in quotes")
        for text in texts:
            if not isinstance(text, str):
                raise Mistake(f"{shown(text)} is not a string; give {self.allowed}, in quotes")
        if "" in texts:
            if len(texts) > 1:
                raise Mistake('"" turns the listener off, yet there are other values beside it; give either')
            return ()
        mistakes = [m for m in map(endpoint_mistake, texts) if m]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        mistakes += [f"{shown(text)} is given twice; give it once" for text in twice]
        if mistakes:
            raise Mistake("; ".join(mistakes))
        return tuple(texts)
