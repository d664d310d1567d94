"""What is fuzzed, as a value: a check, what an input is made of, and the folder of inputs that are always tried.

A check takes octets, does with them what the product does, and asserts the invariants.  It returns its *outcome*: a
few words that say what kind of input it was ("refused 501", "MAIL SIZE RET").  The harness keeps inputs with a new
outcome and builds on them, which is a poor man's coverage and needs nothing installed.  So there must be few outcomes.

An exception that leaves a check is a finding; the exceptions that a parser documents are caught there, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from zlib import crc32

CORPUS = Path(__file__).resolve().parent / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """``tokens`` are put into inputs; ``grammar`` makes inputs that are mostly right."""

    name: str
    check: Callable[[bytes], str]
    grammar: Callable[[Random], bytes]
    tokens: tuple[bytes, ...]

    @property
    def folder(self) -> Path:
        """Where its corpus is."""
        return CORPUS / self.name

    def corpus(self) -> list[bytes]:
        """The committed inputs, in the order of their names."""
        return [path.read_bytes() for path in sorted(self.folder.iterdir()) if path.is_file()]


def require(fact: bool, sentence: str) -> None:
    """An invariant; a plain ``assert`` would vanish under ``python -O``."""
    if not fact:
        raise AssertionError(sentence)


def cuts(data: bytes) -> list[bytes]:
    """``data`` in segments, cut at places that follow from the data alone, so that a finding can be repeated."""
    random = Random(crc32(data))
    places = sorted(int(random.random() * (len(data) + 1)) for _ in range(1 + int(random.random() * 6)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def pick(random: Random, *choices: bytes) -> bytes:
    """One of ``choices``."""
    return choices[int(random.random() * len(choices))]


def some(random: Random, piece: Callable[[Random], bytes], most: int) -> bytes:
    """None to ``most`` pieces."""
    return b"".join(piece(random) for _ in range(int(random.random() * (most + 1))))
