"""Taking a message from a program of this machine into the database, as the service takes one from the network.

It is the service's own code (`mailsvc.smtp.intake.Intake`, `mailsvc.directory.lookup.TableDirectory`, and for ``-bs``
the SMTP server itself) on a store that does everything at once (`mailsvc.storage.beside`): one transaction with
message, maildrops, the rows of the queue and the event.  So it works while the service is away, and what it has taken
the service delivers when it is back.

The hardest idea is what cannot be done here: mail for a program.  Programs run as the service's user, with its limits,
and this process may be anybody's; such recipients are put off, and the caller gives them to the service.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailsvc.config import Configuration
from mailsvc.directory.lookup import TableDirectory
from mailsvc.gate.bodies import Bodies
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.reply import Reply, reply
from mailsvc.mail.wishes import Wish
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.relay.outgoing import Outgoing
from mailsvc.sending.letter import Letter, pieces_of
from mailsvc.smtp.forwarding import Daily
from mailsvc.smtp.intake import Intake, NotTaken
from mailsvc.smtp.reception import BodyLimits
from mailsvc.smtp.reporting import MailLoop
from mailsvc.smtp.seams import Channel, Client, Destination, Exchange, Machine
from mailsvc.storage.accounts import domain_exists
from mailsvc.storage.beside import Beside

T = TypeVar("T")

_US = Machine(0, "a program of this machine")
_PROGRAM = reply(451, "4.3.0", "The address leads to a program, which only the running service gives mail to")
_LOOP = reply(554, "5.4.6", "The message has been here before: it goes in a circle")


class Wall:
    """The time of day: all that is needed of a reactor where nothing waits."""

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return time.time()


class LocalDirectory:
    """Where addresses lead, for programs of this machine: they may write to the world, as users may."""

    def __init__(self, directory: TableDirectory) -> None:
        self._directory = directory

    async def resolve(self, address: Address, client: Client, size: int = 0) -> Destination:
        """See `mailsvc.smtp.seams.Directory`."""
        found = await self._directory.resolve(address, replace(client, machine=_US), size)
        return Destination(refusal=_PROGRAM) if found.programs else found


class NoLogins:
    """Nobody logs in on standard input."""

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """See `mailsvc.smtp.seams.Authenticator`."""
        return ()

    def begin(self, mechanism: str, client: Client, channel: Channel) -> Exchange | None:
        """See `mailsvc.smtp.seams.Authenticator`."""
        return None


@dataclass(frozen=True, slots=True)
class Door:
    """The way into the database.  ``user``: who runs this process, for the trace: an atom."""

    configuration: Configuration
    user: str
    clock: Any = field(default_factory=Wall)

    @property
    def limits(self) -> BodyLimits:
        """What a message may be."""
        limits = self.configuration.smtp
        return BodyLimits(
            limits.message_size,
            limits.header_size,
            limits.received_headers,
            limits.refuse_long_lines,
            limits.memory_per_message,
            None,
            limits.header_fields,
        )

    def intake(self) -> Intake:
        """What stores."""
        configuration = self.configuration
        return Intake(
            self._store,
            self.clock,
            configuration.hostname,
            daily=Daily(configuration.relay.daily_recipients),
        )

    def directory(self) -> LocalDirectory:
        """What knows addresses."""
        configuration = self.configuration
        tables = TableDirectory(self._store, self.clock, configuration.hostname, programs=configuration.delivery.pipes)
        return LocalDirectory(tables)

    def local(self, recipients: Mapping[Address, bool]) -> tuple[Address, ...]:
        """The recipients; a name that came without a domain (True) is the postmaster when we have no such domain.

        Raises `mailsvc.errors.StartRefused`, `mailsvc.errors.StorageFailure`.
        """
        found: dict[Address, None] = {}
        for address, bare in recipients.items():
            if bare and not at_once(_awaited(self._store.read(domain_exists, address.domain))):
                address = Address("postmaster", self.configuration.hostname)
            found[address] = None
        return tuple(found)

    def take(self, letter: Letter, outgoing: Outgoing) -> Mapping[Address, Outcome]:
        """Store the message for those who can have it; the outcome of each recipient.

        Raises `mailsvc.errors.StartRefused` and `mailsvc.errors.StorageFailure`; then nothing was stored.
        """
        return at_once(self._take(letter, outgoing))

    @property
    def _store(self) -> Beside:
        return Beside(self.configuration.database)

    async def _take(self, letter: Letter, outgoing: Outgoing) -> Mapping[Address, Outcome]:
        intake, directory = self.intake(), self.directory()
        client = Client(0, "local", "local")
        outcomes: dict[Address, Outcome] = {}
        destinations: dict[Address, Destination] = {}
        for address in outgoing.recipients:
            found = await directory.resolve(address, client, letter.size)
            if found.refusal is None:
                destinations[address] = found
            else:
                outcomes[address] = _by_reply(found.refusal, Phase.RCPT)
        if destinations:
            outcome = await self._store_for(destinations, letter, outgoing, intake)
            outcomes |= dict.fromkeys(destinations, outcome)
        return {address: outcomes[address] for address in outgoing.recipients}

    async def _store_for(
        self,
        destinations: Mapping[Address, Destination],
        letter: Letter,
        outgoing: Outgoing,
        intake: Intake,
    ) -> Outcome:
        reception = intake.reception(self.limits, Bodies())
        try:
            reception.take(letter.header)
            letter.body.seek(0)
            for piece in pieces_of(letter.body):
                reception.take(piece)
            refused = reception.verdict()
            if refused is not None:
                return _by_reply(refused, Phase.END)
            trace_id = await intake.accept(self._envelope(tuple(destinations), outgoing), destinations, reception)
        except NotTaken as error:
            return _by_reply(error.reply, Phase.END)
        except MailLoop:
            return _by_reply(_LOOP, Phase.END)
        finally:
            reception.discard()
        return Outcome(Kind.DELIVERED, f"stored as {trace_id}", 250, "2.0.0", Phase.END, "this machine")

    def _envelope(self, recipients: tuple[Address, ...], outgoing: Outgoing) -> Envelope:
        wishes: dict[Address, Wish] = {
            address: wanted for address, wanted in outgoing.wishes.items() if address in recipients
        }
        return Envelope(
            outgoing.reverse_path,
            recipients,
            Origin(f"local user {self.user}", "localhost", "local", None, None),
            body_8bit=outgoing.body_8bit,
            smtputf8=outgoing.smtputf8,
            require_tls=outgoing.require_tls,
            dsn_return=outgoing.dsn_return,
            envelope_id=outgoing.envelope_id,
            wishes=wishes,
        )


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine on `Beside`, which never waits.  Raises what it raises."""
    done: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(done.append)
    [result] = done
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


async def _awaited(work: Deferred[T]) -> T:
    return await work


def _by_reply(answer: Reply, phase: Phase) -> Outcome:
    kind = Kind.FAILED if answer.code >= 500 else Kind.DEFERRED
    return Outcome(kind, str(answer), answer.code, answer.enhanced, phase, "this machine")
