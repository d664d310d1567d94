"""Base64 as AUTH writes it, taken strictly (RFC 4954 section 4, RFC 5034 section 4).

Octets outside the alphabet, wrong padding, or a stray bit are a syntax error and never a guess.
"""

from __future__ import annotations

import base64
import binascii

from mailsvc.sasl.exchange import MalformedResponse

_MALFORMED = "the response is not valid base64"


def decode(text: bytes) -> bytes:
    """The octets that ``text`` spells in base64.  Raises `MalformedResponse`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedResponse(_MALFORMED) from None
    # b64decode forgives bits that no encoder sets; then two texts would mean one password.
    if base64.b64encode(data) != text:
        raise MalformedResponse(_MALFORMED)
    return data


def decode_initial(text: bytes) -> bytes:
    """An initial response: ``=`` stands for zero octets (RFC 4954 section 4)."""
    return b"" if text == b"=" else decode(text)


def encode(data: bytes) -> str:
    """``data`` in base64, for a line to the client."""
    return base64.b64encode(data).decode("ascii")
