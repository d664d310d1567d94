"""PEM files taken apart: which blocks are in there, before anything tries to parse one.

People concatenate, swap and convert these files, and a parser's own words ("no start line") help nobody.
Looking at the labels first lets `certkit.inspect` say what the file really is. Text outside the blocks is
allowed (RFC 7468 section 2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One block with its label, e.g. "CERTIFICATE"; `text` is the PEM from BEGIN to END."""

    label: str
    text: bytes = field(repr=False)

    @property
    def is_certificate(self) -> bool:
        """OpenSSL writes two older labels for the same thing."""
        return self.label in ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")

    @property
    def is_private_key(self) -> bool:
        """PKCS#8 plain or encrypted, or one of the older forms per algorithm."""
        return self.label.endswith("PRIVATE KEY")


def blocks(data: bytes) -> tuple[Block, ...]:
    """All complete blocks in their order."""
    return tuple(Block(found[1].decode("ascii"), found[0] + b"\n") for found in _BLOCK.finditer(data))


def what_else(data: bytes) -> str:
    """What a file seems to be that does not have the blocks that it should: the end of the sentence "it
    ..."."""
    if not data.strip():
        return "is empty"
    if data[:1] == b"\x30":
        return "is in a binary form (DER or PKCS#12), not PEM"
    labels = sorted({block.label.lower() for block in blocks(data)})
    if labels:
        return f"holds {' and '.join(labels)}"
    if b"-----BEGIN " in data:
        return "is cut off: a block begins and does not end"
    return "is not a PEM file"
