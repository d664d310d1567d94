"""The gate of the SMTP server (`mailsvc.smtp.seams.Gate`): watches servers that bring mail, from their first octet.

What a finding is stands in `manners` and `blocklists`; here it is decided when to look and what follows.  How many
connections there may be was asked before, by `mailsvc.wire.sessions`.

Users are not watched: they log in, from anywhere, with programs that say anything in EHLO.  Nor are trusted clients.

The hardest idea is seeing an early talker without making everybody wait.  What a client sent before our first word may
lie in the socket, unread, when we are about to write that word.  So the greeting waits for one turn of the reactor,
which looks at every socket once: that costs an honest client less than a millisecond.  A ``greeting_delay`` catches
those as well that speak a little later.

Blocklists are asked at the connection and their answer is awaited at the first RCPT, when it has mostly come, and where
mail for postmaster and abuse can still be let through, so that who is listed can complain (RFC 5321 section 4.5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mailsvc.gate.blocklists import Standing
from mailsvc.gate.guesses import Guesses, Pace
from mailsvc.gate.lookup import Blocklists
from mailsvc.gate.manners import FOREIGN, REFUSALS, Actions, finding
from mailsvc.gate.places import Trusted
from mailsvc.mail.address import Address
from mailsvc.mail.reply import Reply, reply
from mailsvc.maillog import shown
from mailsvc.smtp.seams import Client

_SPOKE_EARLY = reply(554, "5.5.1", "Wait for the greeting before you speak", closes=True)
_TOO_MANY_UNKNOWN = reply(421, "4.7.0", "Too many recipients that do not exist; closing", closes=True)
_NO_WEB = reply(421, "4.7.0", "This is a mail server; closing", closes=True)

_TOO_MUCH_JUNK = reply(421, "4.7.0", "Too many commands that bring no mail; closing", closes=True)

_JUNK = frozenset(["EHLO", "HELO", "NOOP", "HELP", "VRFY", "RSET"])

_RUDENESS = 10.0
"""An ended session counts like so many unknown recipients: who comes back again and again has to wait."""

_REACHABLE = frozenset({"postmaster", "abuse"})


@dataclass(frozen=True, slots=True)
class Policy:
    """What the postmaster has chosen.

    ``unknown_recipients`` of one session end it, and so many ``junk_commands``, which bring no mail, between two
    messages.  ``greeting_delay`` in seconds; ``threshold`` is the sum from which on a client counts as listed.
    """

    hostname: str
    trusted: Trusted = field(default_factory=lambda: Trusted(()))
    unknown_recipients: int = 10
    junk_commands: int = 100
    early_talkers: bool = True
    greeting_delay: float = 0.0
    helo: Actions = field(default_factory=Actions)
    threshold: int = 1
    refuse_listed: bool = True
    guessing: Pace = field(default_factory=Pace)


class Watch:
    """The gate; ``note`` is told what was found, and ``blocklists`` are asked where there are some."""

    def __init__(
        self,
        policy: Policy,
        clock: IReactorTime,
        note: Callable[[Client, str], None],
        blocklists: Blocklists | None = None,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self.note = note
        self.guesses = Guesses(policy.guessing)
        self.blocklists = blocklists

    def admit(self, client: Client) -> Watchman:
        """See `mailsvc.smtp.seams.Gate`."""
        return Watchman(self, watched=client.listener == "smtp" and client.peer not in self.policy.trusted)


class Watchman:
    """Watches one session; see `mailsvc.smtp.seams.Guard`."""

    def __init__(self, watch: Watch, *, watched: bool) -> None:
        self._watch = watch
        self._policy = watch.policy
        self._watched = watched
        self._unknown = 0
        self._junk = 0
        self._standing: Standing | None = None
        self._pausing: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None

    async def greeting(self, client: Client) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        if not self._watched:
            return None
        if self._watch.blocklists is not None:
            asked = Deferred.fromCoroutine(self._watch.blocklists.standing(client.peer))
            asked.addCallback(self._learned, client)
        delay = max(self._policy.greeting_delay, self._delay(client))
        if delay:
            await self._pause(delay)
        elif self._policy.early_talkers:
            # The first call runs before the reactor looks at the sockets again, the second one after it.
            await self._pause(0)
            await self._pause(0)
        return None

    def spoke_early(self, client: Client, octets: int) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        if not self._watched or not self._policy.early_talkers:
            return None
        self._rude(client)
        return _SPOKE_EARLY

    async def command(self, client: Client, verb: str, argument: str) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        if not self._watched or verb not in ("EHLO", "HELO") or not argument:
            return None
        found = finding(argument, client.peer, self._policy.hostname)
        action = "off" if found is None else self._policy.helo.of(found)
        if found is None or action == "off":
            return None
        if action == "refuse":
            return REFUSALS[found]
        self._watch.note(client, f"{verb} {shown(argument)}: {found}")
        return None

    async def recipient(self, client: Client, address: Address) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        if self._watched and (delay := self._delay(client)):
            await self._pause(delay)
        if not self._watched or self._watch.blocklists is None:
            return None
        if self._standing is None:
            self._waiting = Deferred()
            await self._waiting
            self._waiting = None
        standing = self._standing
        if standing is None or standing.score < self._policy.threshold or not self._policy.refuse_listed:
            return None
        if address.local_part.casefold() in _REACHABLE:
            return None
        return reply(550, "5.7.1", f"Your address {client.peer} is listed in {', '.join(standing.listed)}")

    def answered(self, client: Client, verb: str, answer: Reply) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        if verb in FOREIGN:
            self._rude(client)
            return _NO_WEB
        if verb == "." and not answer.is_error:
            self._junk = 0
        if self._watched and verb in _JUNK:
            self._junk += 1
            if self._junk > self._policy.junk_commands:
                self._rude(client)
                return _TOO_MUCH_JUNK
        if self._watched and verb == "RCPT" and (answer.code, answer.enhanced) == (550, "5.1.1"):
            self._unknown += 1
            self._watch.guesses.note(client.peer, self._watch.clock.seconds())
            if self._unknown >= self._policy.unknown_recipients:
                return _TOO_MANY_UNKNOWN
        return None

    def ended(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Guard`."""
        for waiting in (self._pausing, self._waiting):
            if waiting is not None:
                waiting.cancel()

    def _rude(self, client: Client) -> None:
        if self._watched:
            self._watch.guesses.note(client.peer, self._watch.clock.seconds(), _RUDENESS)

    def _delay(self, client: Client) -> float:
        return self._watch.guesses.delay(client.peer, self._watch.clock.seconds())

    async def _pause(self, seconds: float) -> None:
        self._pausing = deferLater(self._watch.clock, seconds)
        await self._pausing
        self._pausing = None

    def _learned(self, standing: Standing, client: Client) -> None:
        self._standing = standing
        self._watch.note(client, f"DNS blocklists: {standing}")
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)
