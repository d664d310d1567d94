"""Giving a message to the programs among its recipients, before it is stored and before "250".

Each pipe (an alias and its program) gets the message once, for the first recipient that leads to it.  The answer to
the sender is one for all of them: `mailsvc.directory.program.together`.

The hardest idea is what a failure means for those who have the message already.  A program cannot be asked to forget.
So programs come before the mailboxes, the first one that may heal ends the round, and the sender's next attempt gives
the message again to those that took it: at least once, as with a sender that never saw our 250.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

from mailsvc import maillog
from mailsvc.directory.program import environment, together, verdict
from mailsvc.directory.tables import Pipe
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.reply import Reply
from mailsvc.smtp.seams import Destination, Programs
from mailsvc.smtp.trace import delivery_header


def pipes(destinations: Mapping[Address, Destination]) -> dict[Pipe, Address]:
    """The recipient for which each pipe gets the message: the first that leads to it."""
    found: dict[Pipe, Address] = {}
    for recipient, destination in destinations.items():
        for pipe in destination.programs:
            found.setdefault(pipe, recipient)
    return found


async def give_to_programs(
    programs: Programs,
    wanted: Mapping[Pipe, Address],
    envelope: Envelope,
    *,
    trace_id: str,
    trace: bytes,
    message: IO[bytes],
    size: int,
) -> Reply | None:
    """Run every pipe; None when all have taken the message, else the reply that the sender gets.

    ``trace`` stands before the message, which has ``size`` octets and is read from its beginning.
    """
    verdicts: list[Reply | None] = []
    for pipe, recipient in wanted.items():
        prefix = delivery_header(envelope.sender, str(pipe.address)) + trace
        told = environment(envelope, pipe.address, recipient, trace_id=trace_id, size=len(prefix) + size)
        ended = await programs.run(pipe.program, told, prefix, message)
        verdicts.append(verdict(ended))
        maillog.program_ended(trace_id, str(pipe.address), str(pipe.program), str(ended), taken=verdicts[-1] is None)
        if verdicts[-1] is not None and verdicts[-1].code < 500:
            break
    return together(verdicts)
