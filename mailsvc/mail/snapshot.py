"""What a maildrop holds at one moment, in columns: a few dozen octets a message instead of several hundred.

A POP3 session keeps this from login to QUIT, and people have maildrops of 100,000 messages.  A Python object for each
message would be 300 octets and more; here uid, message id and size are 8 each in an `array`, and what UIDL says stands
as text in blocks of `BLOCK` messages.  Who wants one message asks for one and gets it as a `MaildropItem`, made at
that moment.

The hardest idea is the text in blocks.  The other way, 64 bits a UIDL because ours end in 64 random bits, would take 8
octets instead of some 22, but took a third longer to read, and would need a second way for every UIDL that came from
another server.  A block is split in microseconds, and it is just what a UIDL listing needs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

BLOCK = 500
"""Messages of one block."""

SnapshotRow = tuple[int, int, int, str]
"""uid, message id, size, UIDL."""


@dataclass(frozen=True, slots=True)
class MaildropItem:
    """One message in an account's maildrop; `size` is in octets as POP3 sends it, before dot-stuffing."""

    uid: int
    message_id: int
    size: int
    uidl: str


class Snapshot(Sequence[MaildropItem]):
    """The items of one maildrop in their order; never changed after it was made.

    `uids`, `message_ids` and `sizes` are for reading; `blocks` are the rows, each but the last of exactly `BLOCK`
    (ValueError otherwise).  A UIDL has no line end in it (RFC 1939 section 7: 0x21 to 0x7e).
    """

    __slots__ = ("_uidls", "message_ids", "sizes", "uids")

    def __init__(self, blocks: Iterable[Sequence[SnapshotRow]] = ()) -> None:
        self.uids = array("q")
        self.message_ids = array("q")
        self.sizes = array("q")
        self._uidls: list[str] = []
        for rows in blocks:
            if len(self.uids) % BLOCK or len(rows) > BLOCK:
                raise ValueError(f"a block that is not the last has {BLOCK} rows, neither more nor less")
            if rows:
                uids, message_ids, sizes, uidls = zip(*rows, strict=True)
                self.uids.extend(uids)
                self.message_ids.extend(message_ids)
                self.sizes.extend(sizes)
                self._uidls.append("\n".join(uidls))

    @classmethod
    def of(cls, items: Iterable[MaildropItem]) -> Snapshot:
        """The snapshot that holds these items."""
        rows = [(item.uid, item.message_id, item.size, item.uidl) for item in items]
        return cls(rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))

    def __len__(self) -> int:
        return len(self.uids)

    @overload
    def __getitem__(self, index: int) -> MaildropItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[MaildropItem]: ...

    def __getitem__(self, index: int | slice) -> MaildropItem | list[MaildropItem]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        uid = self.uids[index]  # raises IndexError
        index %= len(self.uids)
        uidl = self.uidls(index // BLOCK)[index % BLOCK]
        return MaildropItem(uid, self.message_ids[index], self.sizes[index], uidl)

    def __iter__(self) -> Iterator[MaildropItem]:
        for number, start in enumerate(range(0, len(self), BLOCK)):
            for index, uidl in enumerate(self.uidls(number), start):
                yield MaildropItem(self.uids[index], self.message_ids[index], self.sizes[index], uidl)

    def uidls(self, block: int) -> list[str]:
        """The UIDLs of messages `block` * `BLOCK` and following, at most `BLOCK` of them."""
        return self._uidls[block].split("\n")
