"""What the tests of the storage share: a database in a folder of its own, and a message to put into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import mailsvc
from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.message import Summary
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.database import offline
from mailsvc.storage.rows import Cursor

ALICE = parse_address("alice@example.org")
BOB = parse_address("bob@example.org")
HEADER = b"Subject: hello\r\n\r\n"
TRACE = b"Received: from there\r\n"


def new_message(body: bytes, trace_id: str = "trace-1") -> mailboxes.NewMessage:
    """A message of `HEADER` and `body`."""
    octets = HEADER + body
    summary = Summary(
        size=len(octets),
        header_size=len(HEADER),
        sha256=sha256(octets).hexdigest(),
        subject="hello",
        from_=None,
        date=None,
        message_id=None,
    )
    return mailboxes.NewMessage(trace_id, "sender@example.net", 1000.0, TRACE, summary)


def deliver(txn: Cursor, body: bytes, *account_ids: int, trace_id: str = "trace-1") -> int:
    """Deliver a message whose body comes in pieces of 7 octets."""
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    return mailboxes.deliver(txn, new_message(body, trace_id), HEADER, pieces, account_ids)


def content(txn: Cursor, message_id: int) -> bytes:
    """All parts of a message."""
    whole = b""
    part = 0
    while (piece := mailboxes.content_part(txn, message_id, part)) is not None:
        whole += piece
        part += 1
    return whole


def add(txn: Cursor, address: Address = ALICE) -> int:
    """Add an account."""
    return accounts.add_account(txn, address, "$argon2id$hash", 1.0)


def count(txn: Cursor, table: str) -> int:
    """How many rows a table has."""
    ((rows,),) = txn.execute(f"SELECT COUNT(*) FROM {table}").fetchall()
    return int(rows)


@cache
def _new_database() -> bytes:
    folder = tempfile.mkdtemp()
    try:
        path = Path(folder, "mail.sqlite3")
        with offline(str(path), create=True):
            pass
        return path.read_bytes()
    finally:
        shutil.rmtree(folder)


def make_database(path: str) -> None:
    """Make the file of a database as `offline` and the service make it, when there is none; nobody is in it yet.

    It is a copy: making one takes a hundred times as long.  How it is made is tested in `tests.test_storage_opening`.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(descriptor, "wb") as file:
        file.write(_new_database())


def spawn(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that can import mailsvc; its stdin and stdout are pipes of text.

    Its standard input is open until ``communicate``, whatever that of the tests is.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(mailsvc.__file__)))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": package},
    )


class OfflineCase(SynchronousTestCase):
    """`self.path` names a database that does not exist yet, in a folder that does."""

    def setUp(self) -> None:
        folder = os.path.realpath(self.mktemp())
        os.makedirs(folder)
        self.path = os.path.join(folder, "mail.sqlite3")

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A transaction on `self.path`, which is made when needed."""
        make_database(self.path)
        with offline(self.path, create=True) as txn:
            yield txn
