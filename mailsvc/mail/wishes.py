"""What a sender wants to be told about a recipient, and how such words are written on the wire (RFC 3461).

Pure values and their syntax: xtext (section 4), ENVID (4.4), RET (4.3), NOTIFY (4.1) and ORCPT (4.2).  A `ValueError`
says what is wrong in words for the client.

The hardest idea: ORCPT is somebody else's address, in a form that we need not understand; it is decoded so that it can
be written into a report, and therefore must not hold anything that breaks a header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}\Z")
_UNITEXT = re.compile(r"\\x\{(10[0-9A-F]{4}|[1-9A-F][0-9A-F]{1,4})\}")
_NOTIFICATIONS = ("SUCCESS", "FAILURE", "DELAY")

ENVELOPE_ID_LIMIT = 100
"""Characters of ENVID, RFC 3461 section 5.4."""

ORIGINAL_LIMIT = 500
"""Characters of ORCPT, RFC 3461 section 5.4."""


@dataclass(frozen=True, slots=True)
class Wish:
    """``notify``: NOTIFY's words in upper case, None when it was not said; ``original``: "type;address" or None."""

    notify: tuple[str, ...] | None = None
    original: str | None = None

    @property
    def on_success(self) -> bool:
        """Whether a delivery is to be reported."""
        return self.notify is not None and "SUCCESS" in self.notify


NO_WISH = Wish()


def decode_xtext(text: str) -> str:
    """The printable ASCII (and spaces) that ``text`` stands for."""
    if not _XTEXT.match(text):
        raise ValueError("is not valid xtext")
    decoded = _HEX.sub(lambda pair: chr(int(pair[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):
        raise ValueError("stands for characters that are not printable ASCII")
    return decoded


def encode_xtext(text: str) -> str:
    """Printable ASCII as xtext (section 4).  Raises ValueError for anything else."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("xtext is made of printable ASCII")
    return re.sub(r"[ +=]", lambda found: f"+{ord(found[0]):02X}", text)


def encode_original(original: str) -> str:
    """An `original_recipient` as ORCPT writes it, in ASCII (RFC 6533 section 3: utf-8-addr-xtext)."""
    kind, _, address = original.partition(";")
    if kind.lower() != "utf-8":
        return f"{kind};{encode_xtext(address)}"
    return f"{kind};" + "".join(
        char if char.isascii() and char.isprintable() and char not in " +=\\" else f"\\x{{{ord(char):02X}}}"
        for char in address
    )


def envelope_id(value: str | None) -> str:
    """ENVID."""
    if not value or len(value) > ENVELOPE_ID_LIMIT:
        raise ValueError(f"ENVID is 1 to {ENVELOPE_ID_LIMIT} characters of xtext")
    try:
        return decode_xtext(value)
    except ValueError as error:
        raise ValueError(f"ENVID {error}") from None


def returned_part(value: str | None) -> str:
    """RET: ``FULL`` or ``HDRS``."""
    if value is None or value.upper() not in ("FULL", "HDRS"):
        raise ValueError("RET is FULL or HDRS")
    return value.upper()


def notifications(value: str | None) -> tuple[str, ...]:
    """NOTIFY: ``NEVER``, or some of ``SUCCESS``, ``FAILURE`` and ``DELAY``."""
    words = tuple((value or "").upper().split(","))
    if words != ("NEVER",) and (not set(words) <= set(_NOTIFICATIONS) or len(set(words)) < len(words)):
        raise ValueError("NOTIFY is NEVER, or some of SUCCESS,FAILURE,DELAY")
    return words


def original_recipient(value: str | None, *, utf8: bool) -> str:
    """ORCPT as ``type;address``; ``utf8``: whether characters outside ASCII may stand in it (RFC 6533 section 3)."""
    kind, semicolon, address = (value or "").partition(";")
    if not semicolon or not address or not _TYPE.match(kind) or len(value or "") > ORIGINAL_LIMIT:
        raise ValueError("ORCPT is an address type, a semicolon and an address in xtext")
    try:
        if kind.lower() == "utf-8":
            return f"utf-8;{_decode_unitext(address, utf8)}"
        return f"{kind.lower()};{decode_xtext(address)}"
    except ValueError as error:
        raise ValueError(f"ORCPT {error}") from None


def _decode_unitext(text: str, utf8: bool) -> str:
    if not text.isascii() and not utf8:
        raise ValueError("holds UTF-8, for which MAIL must say SMTPUTF8")
    if re.search(r"\\(?!x\{)", text) or re.search(r"[\s=+]", text):
        raise ValueError("is not valid for the address type utf-8")
    try:
        decoded = _UNITEXT.sub(lambda point: chr(int(point[1], 16)), text)
        decoded.encode("utf-8")
    except (ValueError, OverflowError):
        raise ValueError("is not valid for the address type utf-8") from None
    if "\\x{" in decoded.replace("\\x{5C}", "") or not decoded.isprintable():
        raise ValueError("is not valid for the address type utf-8")
    return decoded
