"""`mailsvc why ID|ADDRESS|IP`: what happened, told from the events that the service keeps.

Reads the database beside a running service and holds up nobody: no lock is taken.  What belongs to the answer is
`mailsvc.storage.stories`, how it reads `mailsvc.cli.story`.
"""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime

import click

from mailsvc.cli import story
from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.errors import NotFound
from mailsvc.storage.opening import looking
from mailsvc.storage.stories import story_of

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGO = re.compile(r"(\d{1,9})([smhdw])\Z")
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


class Since(click.ParamType[float]):
    """A time: so long ago (90s, 30m, 2h, 7d, 1w), or a date, perhaps with a time of day, in UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since the epoch."""
        text = str(value).strip()
        if ago := _AGO.match(text):
            return time.time() - int(ago[1]) * _UNITS[ago[2]]
        for form in _FORMATS:
            try:
                return datetime.strptime(text.removesuffix("Z"), form).replace(tzinfo=UTC).timestamp()
            except ValueError:
                continue
        self.fail(f"{story.visible(text)} is no time; say 90s, 30m, 2h, 7d, 2026-11-20 or 2026-11-20T15:30", param, ctx)


@click.command()
@click.argument("word", metavar="ID|ADDRESS|IP")
@click.option("--since", type=Since(), metavar="TIME", help="Only what happened since: 30m, 2h, 7d, 2026-11-20 (UTC).")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="The newest events, no more."
)
@JSON
@click.pass_obj
def why(common: Common, word: str, since: float | None, limit: int, as_json: bool) -> None:
    """Tell what happened to a message, an address or a client.

    ID is the trace id from the reply "stored as ...", from the log or from Received, or a Message-ID. ADDRESS is a
    sender, a recipient or a login. IP is a client. The word certificates, or the name of one, tells which certificates
    were taken into use or refused, and which end. Times are UTC.
    """
    # What a terminal gave us may be no text that a database takes.
    asked = word.strip().encode("utf-8", "replace").decode("utf-8")
    with looking(common.database) as txn:
        answer = story_of(txn, asked, since=since or 0.0, limit=limit)
    if not answer.entries:
        when = "" if since is None else " since then"
        raise NotFound(
            f"nothing is known of {story.visible(asked)}{when}; a trace id, a Message-ID, an address or an IP address"
            " is looked up as a whole, and events are kept as long as [events] keep_days and keep_rows say"
        )
    if as_json:
        click.echo(story.for_programs(answer))
        return
    # A terminal that cannot show a letter gets its number.
    encoding = sys.stdout.encoding or "ascii"
    for line in story.told(answer):
        click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
