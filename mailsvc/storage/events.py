"""What was decided for which message, and why: one row an event.

The event rows of a decision are written in the transaction that carries the decision out, so that the story a
postmaster reads never says more or less than what happened.  An event outlives its message and its account on
purpose (it refers to them by number, without a foreign key).

Details are a JSON object of plain values.  They never hold message text, passwords or keys; who records an
event answers for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mailsvc.storage.rows import Cursor


def record(
    txn: Cursor,
    *,
    time: float,
    kind: str,
    trace_id: str | None = None,
    message_id: int | None = None,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Note an event; `kind` is a short constant name ("accepted"), `time` seconds since the epoch."""
    txn.execute(
        "INSERT INTO event (time, kind, trace_id, message_id, detail) VALUES (?, ?, ?, ?, ?)",
        (time, kind, trace_id, message_id, json.dumps(dict(detail or {}), ensure_ascii=True, sort_keys=True)),
    )
