"""What the bodies of all messages that are on their way in may hold of us, together.

Pure: counters.  `mailsvc.smtp.intake.Reception` draws from a `Bodies` for each piece before it keeps it.

The hardest idea: there are two limits, because there are two things to run out of.  While *memory* is left a small body
stays there, and costs no disk.  Past that limit each body moves to its temporary file at once, so a thousand sessions
that send a body cannot add up to an out-of-memory, and none of them is refused.  Past ``total`` (memory and files) no
more is taken: the disk would be next, and with it everybody's mail.
"""

from __future__ import annotations

from enum import Enum

_NO_LIMIT = 1 << 62


class Room(Enum):
    """Where the next octets of a body may be kept."""

    MEMORY = "memory"
    FILE = "file"
    NONE = "nowhere"


class Bodies:
    """So many octets ``in_memory``, and so many in all, in memory and in files."""

    def __init__(self, in_memory: int = _NO_LIMIT, total: int = _NO_LIMIT) -> None:
        self._memory_limit = in_memory
        self._total_limit = total
        self.in_memory = 0
        self.total = 0

    def begin(self) -> Held:
        """A body begins."""
        return Held(self)

    def _room(self, octets: int, in_file: bool) -> Room:
        if self.total + octets > self._total_limit:
            return Room.NONE
        return Room.FILE if in_file or self.in_memory + octets > self._memory_limit else Room.MEMORY


class Held:
    """What one body holds; `end` gives all of it back, and may be called any number of times."""

    __slots__ = ("_bodies", "_in_file", "_octets")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._octets = 0
        self._in_file = False

    def take(self, octets: int) -> Room:
        """So many more are there; the answer says where they go.  `Room.NONE` holds nothing of them."""
        room = self._bodies._room(octets, self._in_file)
        if room is Room.NONE:
            return room
        if room is Room.FILE:
            self.move_to_file()
        self._octets += octets
        self._bodies.total += octets
        if not self._in_file:
            self._bodies.in_memory += octets
        return room

    def move_to_file(self) -> None:
        """The whole body is in a file from now on."""
        if not self._in_file:
            self._in_file = True
            self._bodies.in_memory -= self._octets

    def end(self) -> None:
        """The body is gone."""
        self._bodies.total -= self._octets
        if not self._in_file:
            self._bodies.in_memory -= self._octets
        self._octets = 0
