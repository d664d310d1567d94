"""Changes inputs: bits, octets, slices, splices, tokens, repetitions.

Fast before clever: about ten microseconds an input, so that a million take a minute or two with what is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.fuzz.target import Target

_LONGEST = 4096
"""Octets of an ordinary input."""

_HUGE = 1 << 16
"""Octets of one input in a thousand: what takes time by the square shows there."""

_POOL = 2000
_NASTY: tuple[bytes, ...] = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b'"',
    b"\\",
    b"\x7f",
    b"\xff",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
)
_NASTY += (b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"=", b"+", b"<", b">", b"@", b":", b";", b",", b"(")


class Mutator:
    """Endless inputs for ``target``; the same for the same ``seed`` and the same calls of `keep`."""

    def __init__(self, target: Target, seed: int) -> None:
        self._random = Random(f"{target.name} {seed}")
        self._grammar = target.grammar
        self._tokens = (*target.tokens, *_NASTY)
        self._pool = list(target.corpus()) or [b""]

    def keep(self, data: bytes) -> None:
        """``data`` was something new: build on it."""
        if len(data) > _LONGEST:
            return
        if len(self._pool) < _POOL:
            self._pool.append(data)
        else:
            self._pool[int(self._random.random() * _POOL)] = data

    def next(self) -> bytes:
        """An input."""
        chance = self._random.random
        kind = chance()
        if kind < 0.001:
            return self._huge()
        data = self._grammar(self._random) if kind < 0.4 else self._choice(self._pool)
        if kind < 0.15:
            return data
        for _ in range(1 + int(chance() * chance() * 5)):
            data = self._changed(data)
        return data[:_LONGEST]

    def _choice(self, things: Sequence[bytes]) -> bytes:
        return things[int(self._random.random() * len(things))]

    def _changed(self, data: bytes) -> bytes:
        chance = self._random.random
        place = int(chance() * (len(data) + 1))
        match int(chance() * 10):
            case 0 if place < len(data):  # a bit
                return b"%b%c%b" % (data[:place], data[place] ^ (1 << int(chance() * 8)), data[place + 1 :])
            case 1:  # an octet
                return b"%b%c%b" % (data[:place], int(chance() * 256), data[place + 1 :])
            case 2:  # without a slice
                return data[:place] + data[place + 1 + int(chance() * 8) :]
            case 3:  # a slice twice, or many times
                end = place + 1 + int(chance() * 16)
                return data[:end] + data[place:end] * int(1 / (chance() + 0.002)) + data[end:]
            case 4:  # the beginning of one, the end of another
                other = self._choice(self._pool)
                return data[:place] + other[int(chance() * (len(other) + 1)) :]
            case 5:  # the end cut off
                return data[:place]
            case 6:  # a piece elsewhere
                end = place + 1 + int(chance() * 16)
                piece, rest = data[place:end], data[:place] + data[end:]
                there = int(chance() * (len(rest) + 1))
                return rest[:there] + piece + rest[there:]
            case 7:  # a token in place of what was there
                return data[:place] + self._choice(self._tokens) + data[place + int(chance() * 4) :]
            case _:
                return data[:place] + self._choice(self._tokens) + data[place:]

    def _huge(self) -> bytes:
        chance = self._random.random
        before, after = self._choice(self._pool), self._choice(self._pool)
        place = int(chance() * (len(before) + 1))
        unit = b"".join(self._choice(self._tokens) for _ in range(1 + int(chance() * 3))) or b"x"
        return (before[:place] + unit * (_HUGE // len(unit)))[:_HUGE] + after
