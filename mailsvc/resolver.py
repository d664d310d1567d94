"""DNS answers for mail that goes out: hosts, mail exchangers, texts and TLSA records; and what DNSSEC vouches for.

dnspython asks, in a thread.  Not `twisted.names`, also not for MX records: DANE must know of the MX record and of the
host's addresses, too, whether DNSSEC vouches for them (RFC 7672 sections 2.1.3 and 2.2), and its client can neither
ask for that nor tell it.  `twisted.names.dns.DNSMixin._query` makes each query with the flag RD alone, without EDNS, so
with neither DO nor AD (RFC 4035 section 3.2.1, RFC 6840 section 5.7); `twisted.names.client.Resolver.filterAnswers`
passes on the lists of records, and the AD flag of the answer is gone.  It has no TLSA records either.  A second asker
for those answers that need no DNSSEC would be a second set of failures to tell apart.  dnspython also goes on by TCP
when an answer is too long for UDP, and tells "there is none" from "nobody could say".  Nothing is remembered here.

What a thread costs is that it waits.  A question ends after `SECONDS` whatever happens, and all of a process are asked
in `Questions`: threads of their own, so that nobody else (the reactor's pool looks up names and reads certificates)
waits behind a resolver that is dead, a line with an end, and no place in it that is kept for longer than `TURN`.

The hardest idea is whom to believe.  The flag that says "DNSSEC vouches for this" (AD, RFC 4035 section 3.2.3) is one
bit of a packet that anybody on the way can set, so it counts only when every resolver that is asked is on this very
machine (RFC 7672 section 2.1 calls that the channel that must be secured).  With another resolver answers are used, and
`Answer.doubt` says plainly why they do not count as authentic.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import dns.exception
import dns.flags
import dns.rdatatype
import dns.resolver
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailsvc.errors import TemporaryFailure
from mailsvc.tls.dane import TLSARecord

SECONDS = 5.0
"""How long one question may take, all servers and tries together."""

THREADS = 100
"""Questions at a time: one for each conversation that the queue has by itself (``queue.connections``)."""

LONGEST_LINE = 2000
"""Questions that may wait for a thread."""

TURN = 15.0
"""How long a question may wait for a thread: 300 are looked at in that time when no resolver answers at all."""

MOST_RECORDS = 200
"""Records of one answer that are looked at."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Unanswered(TemporaryFailure):
    """Nobody could say whether there are such records: to be asked again later (RFC 5321 section 5.1)."""


@dataclass(frozen=True, slots=True)
class MailHost:
    """A mail exchanger of a domain; ``host`` is in lower case without the final dot, "" for a null MX (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """Records, none when DNS says that there are none.

    ``authentic``: DNSSEC vouches for the answer, also for one without records; ``doubt`` says why it does not.
    ``canonical`` is the name at the end of the aliases (CNAME), ``seconds`` how long the answer may be kept.
    """

    records: tuple[T_co, ...] = ()
    authentic: bool = False
    doubt: str = ""
    canonical: str = ""
    seconds: int = 0


class Resolver(Protocol):
    """Who is asked.  Every method raises `Unanswered`; names are host names without a final dot."""

    @property
    def doubt(self) -> str:
        """Why no answer is believed to be authentic, whatever it says; "" when the resolvers are on this machine."""

    async def addresses(self, name: str) -> Answer[str]:
        """The IPv6 and IPv4 addresses of a host.  Authentic only when both answers are.

        Where one question gets no answer (there are name servers that fail on AAAA) the other's counts alone, and is as
        authentic as it is: who keeps one answer away must not be able to switch DANE off.
        """

    async def mail_hosts(self, domain: str) -> Answer[MailHost]:
        """The MX records of a domain, the most preferred first."""

    async def texts(self, name: str) -> Answer[str]:
        """The TXT records of a name, each in one piece."""

    async def tlsa(self, name: str) -> Answer[TLSARecord]:
        """The TLSA records of a name like ``_25._tcp.mail.example.org``."""


class _Thread(Thread):
    """It holds nothing that a process must wait for which ends without stopping its reactor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=True, **kwargs)


class _Threads(ThreadPool):
    threadFactory = _Thread


class Questions:
    """Runs what blocks until DNS has answered, in threads that nobody else uses; they end with the reactor.

    ``threads`` at a time; ``line``: so many more may wait, for ``turn`` seconds each.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        threads: int = THREADS,
        line: int = LONGEST_LINE,
        turn: float = TURN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._pool = _Threads(0, threads, "DNS")
        self._limit = threads + line
        self._turn = turn
        self._clock = clock
        self._pending = 0
        self._begun = self._ended = False

    def ask(self, name: str, question: Callable[[], T]) -> Deferred[T]:
        """What ``question`` returns or raises; `Unanswered` when it is nobody's turn in time, or mailsvc stops.

        Cancelled it does not hold up who asks; a thread that has begun goes on.
        """
        if self._ended or self._pending >= self._limit:
            why = "mailsvc is stopping" if self._ended else "too many other questions wait for an answer"
            return fail(Unanswered(f"{name} could not be looked up: {why}"))
        if not self._begun:
            self._begun = True
            self._pool.start()
            # What waits in line is passed over, so that the end of the threads waits for `SECONDS` at most.
            self._reactor.addSystemEventTrigger("before", "shutdown", self._end)
            self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)
        self._pending += 1
        asked = self._clock()
        answer: Deferred[T] = Deferred(lambda _: None)

        def in_thread() -> T:
            if self._ended or answer.called:
                raise Unanswered(f"{name} was not looked up: nobody waits for it any more")
            if self._clock() - asked > self._turn:
                raise Unanswered(f"{name} could not be looked up: the resolvers are too slow, many questions wait")
            return question()

        def done(result: Any) -> None:
            self._pending -= 1
            if not answer.called:
                answer.callback(result)

        deferToThreadPool(self._reactor, self._pool, in_thread).addBoth(done)
        return answer

    def _end(self) -> None:
        self._ended = True


_questions: WeakKeyDictionary[Any, Questions] = WeakKeyDictionary()


def questions_of(reactor: Any) -> Questions:
    """The one of a process, however many resolvers it makes (`mailsvc.send` makes one for each message)."""
    return _questions.setdefault(reactor, Questions(reactor))


class SystemResolver:
    """The resolvers that `resolv_conf` names, or those of a dnspython resolver that was made elsewhere."""

    def __init__(
        self,
        reactor: Any,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        *,
        asked: dns.resolver.Resolver | None = None,
        questions: Questions | None = None,
    ) -> None:
        self._questions = questions or questions_of(reactor)
        self._doubt = ""
        self._asked = asked
        if asked is None:
            try:
                self._asked = dns.resolver.Resolver(str(resolv_conf))
            except (OSError, dns.exception.DNSException) as error:
                self._doubt = f"{resolv_conf} names no resolver ({type(error).__name__})"
        if self._asked is not None:
            self._doubt = _prepared(self._asked)

    @property
    def doubt(self) -> str:
        """See `Resolver`."""
        return self._doubt

    async def addresses(self, name: str) -> Answer[str]:
        """See `Resolver`."""
        answers: list[Answer[str]] = []
        silence: Unanswered | None = None
        for kind in (dns.rdatatype.AAAA, dns.rdatatype.A):
            try:
                answers.append(await self._ask(name, kind, lambda each: str(each.address)))
            except Unanswered as why:
                silence = why
        records = tuple(record for answer in answers for record in answer.records)
        if silence is not None and not records:
            # Perhaps all its addresses are behind the question that nobody answered.
            raise silence
        return Answer(
            records,
            all(answer.authentic for answer in answers),
            next((answer.doubt for answer in answers if answer.doubt), ""),
            answers[-1].canonical or answers[0].canonical,
            min(answer.seconds for answer in answers),
        )

    async def mail_hosts(self, domain: str) -> Answer[MailHost]:
        """See `Resolver`."""
        found = await self._ask(
            domain, dns.rdatatype.MX, lambda each: MailHost(each.preference, _name(each.exchange.to_text()))
        )
        ordered = tuple(sorted(found.records, key=lambda each: each.preference))
        return Answer(ordered, found.authentic, found.doubt, found.canonical, found.seconds)

    async def texts(self, name: str) -> Answer[str]:
        """See `Resolver`."""
        return await self._ask(
            name, dns.rdatatype.TXT, lambda each: b"".join(each.strings).decode("ascii", "backslashreplace")
        )

    async def tlsa(self, name: str) -> Answer[TLSARecord]:
        """See `Resolver`."""
        return await self._ask(
            name, dns.rdatatype.TLSA, lambda each: TLSARecord(each.usage, each.selector, each.mtype, each.cert)
        )

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, value: Callable[[Any], T_co]) -> Answer[T_co]:
        resolver = self._asked
        if resolver is None:
            raise Unanswered(f"{name} could not be looked up: {self._doubt}")
        answer = await self._questions.ask(name, lambda: _answer(resolver, name, kind, self._doubt))
        return Answer(
            tuple(value(each) for each in answer.records),
            answer.authentic,
            answer.doubt,
            answer.canonical,
            answer.seconds,
        )


def _prepared(resolver: dns.resolver.Resolver) -> str:
    """Make it ask as we want to; return why its answers are not authentic."""
    resolver.use_edns(0, dns.flags.DO, 1232)
    resolver.flags = dns.flags.RD | dns.flags.AD
    resolver.search = []
    resolver.lifetime = SECONDS
    strangers = [str(server) for server in resolver.nameservers if not _is_here(str(server))]
    if strangers or not resolver.nameservers:
        whose = f"the resolver {', '.join(strangers)} is not on this machine" if strangers else "there is no resolver"
        return f"no validating resolver: {whose}, so what it says of DNSSEC could be anybody's word"
    return ""


def _answer(resolver: dns.resolver.Resolver, name: str, kind: dns.rdatatype.RdataType, doubt: str) -> Answer[Any]:
    """Blocks; runs in a thread."""
    try:
        found = resolver.resolve(f"{name}.", kind, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN as error:
        response = next(iter(error.kwargs.get("responses", {}).values()), None)
        authentic = response is not None and bool(response.flags & dns.flags.AD) and not doubt
        return Answer(authentic=authentic, doubt="" if authentic else doubt or _unsigned(name), canonical=name)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise Unanswered(f"{name} ({kind.name}) could not be looked up: {_why(error)}") from error
    authentic = bool(found.response.flags & dns.flags.AD) and not doubt
    records = () if found.rrset is None else tuple(found.rrset)[:MOST_RECORDS]
    seconds = 0 if found.rrset is None else found.rrset.ttl
    return Answer(
        records,
        authentic,
        "" if authentic else doubt or _unsigned(name),
        _name(found.canonical_name.to_text()),
        seconds,
    )


def _unsigned(name: str) -> str:
    return f"DNSSEC does not vouch for {name}: it is not signed, or the resolver does not check signatures"


def _why(error: Exception) -> str:
    if isinstance(error, dns.resolver.NoNameservers):
        return "the resolver says that it failed (SERVFAIL: the zone is broken, or its signatures are wrong)"
    if isinstance(error, dns.exception.Timeout):
        return "no resolver answers in time"
    return type(error).__name__


def _name(text: str) -> str:
    return text.rstrip(".").lower()


def _is_here(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_loopback
    except ValueError:
        return False
