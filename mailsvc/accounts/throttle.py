"""How guessing passwords is made slow without giving anybody a way to lock others out.

Pure: values and the time in, decisions out.  `mailsvc.accounts.login` keeps the clock and does the waiting.
RFC 4954 section 4 and RFC 1939 section 13 leave the pace to the server.

The hardest idea: a wrong answer does not merely come late, it *holds a place* until it has been given.  The
logins of one network (an IPv4 address, or an IPv6 /64, which is what one customer gets) are checked in a few
places, fewer still for one account; whoever finds no place stands in a bounded line, and past that is turned
away with a temporary failure before any work is done.  A right password leaves its place at once; a wrong one
keeps it for 1, 2, 4, ... `Pace.longest` seconds, whether the client waits for the answer or hangs up.  So
neither a thousand parallel connections nor dropping each one after a moment gives more guesses than places
divided by the delay, and no peer needs to be delayed for a right password.

Why an attacker cannot lock the owner out: failures make *wrong* answers slow, never right ones.  An owner
who comes from another network than the attacker has places of his own and is answered at once, however many
failures his account has seen.  One who shares the attacker's network (one NAT, one host) waits for his turn
in the line at most, and may be told to come back while that is full; an attacker on one account holds at
most `Places.for_account` of the network's places.  A success forgives what *this* network did wrong on *this*
account and nothing else, so that mistyping costs nothing afterwards, while a login to an attacker's own
account buys him no fresh guesses at another's.

What is wrong with it: every new network has its first `Places.for_network` guesses nearly free, so thousands
of hosts make thousands of guesses; and whoever holds a large IPv6 prefix has many /64s.  Only a good password
helps against that.  A proxy in front that hides the client addresses makes all its clients one network.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow wrong answers become, and how soon failures are forgotten.

    `first` and `longest` delay in seconds; one failure is forgotten every `forget` seconds; more than `most`
    failures count as `most`; each table keeps the `remembered` networks, accounts and pairs that failed last.
    """

    first: float = 1.0
    longest: float = 15.0
    forget: float = 60.0
    most: float = 20.0
    remembered: int = 10_000

    def delay(self, failures: float) -> float:
        """Seconds that a wrong answer waits after so many failures (this one included): 0, 1, 2, 4, 8, 15."""
        if failures <= 0:
            return 0.0
        return float(min(self.longest, self.first * 2.0 ** (failures - 1)))


@dataclass(frozen=True, slots=True)
class Places:
    """How many logins of one network are checked, or hold a wrong answer back, at the same time.

    `line` more may wait for a place: enough for an office whose machines all wake at nine.  A network that
    has `patience` failures or more may have `short_line` waiting.
    """

    for_network: int = 4
    for_account: int = 2
    line: int = 256
    short_line: int = 16
    patience: float = 4.0


class Place:
    """One login on its way through the throttle: it waits in line, then it is `running`, then it has left."""

    __slots__ = ("account", "left", "network", "running")

    def __init__(self, network: str, account: Hashable) -> None:
        self.network = network
        self.account = account
        self.running = False
        self.left = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """After a wrong password: the seconds that its answer waits, and who may no longer stand in line."""

    wait: float
    turned_away: tuple[Place, ...]


@lru_cache(4096)
def network(peer: str) -> str:
    """The network that a peer's address text belongs to: itself for IPv4, its /64 for IPv6.

    An IPv4 address mapped into IPv6 is that IPv4 address.  What is no IP address (a UNIX socket, nothing) is
    a network of its own, cut to a bounded length.
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


class _Failures:
    """A bounded table of how often something failed, each entry fading with time."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._entries: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def level(self, key: Hashable, now: float) -> float:
        """How many failures of `key` are still counted; a fraction while one of them fades."""
        count, since = self._entries.get(key, (0.0, now))
        return max(0.0, count - max(0.0, now - since) / self._pace.forget)

    def add(self, key: Hashable, now: float) -> float:
        """Count one failure more, return the new level."""
        level = min(self._pace.most, self.level(key, now) + 1.0)
        self._put(key, level, now)
        return level

    def forgive(self, key: Hashable, failures: float, now: float) -> None:
        """Count so many failures less."""
        if key in self._entries:
            self._put(key, self.level(key, now) - failures, now)

    def _put(self, key: Hashable, level: float, now: float) -> None:
        if level <= 0:
            self._entries.pop(key, None)
            return
        self._entries[key] = (level, now)
        self._entries.move_to_end(key)
        if len(self._entries) > self._pace.remembered:
            self._entries.popitem(last=False)


class _Network:
    """The places of one network that has a login under way."""

    __slots__ = ("busy", "line")

    def __init__(self) -> None:
        self.busy: Counter[Hashable] = Counter()
        self.line: dict[Place, None] = {}


class Throttle:
    """The places, the lines and the failures of one service.  Times are seconds of any steady clock.

    Every login goes `enter`, then when it is running `failed` or `succeeded` (neither when it could not be
    checked), then `leave`.  `account` is any key that stands for the name that was given, known or not.
    """

    def __init__(self, pace: Pace | None = None, places: Places | None = None) -> None:
        self._pace = pace or Pace()
        self._places = places or Places()
        self._networks: dict[str, _Network] = {}
        self._by_network = _Failures(self._pace)
        self._by_account = _Failures(self._pace)
        self._by_pair = _Failures(self._pace)

    def enter(self, peer_network: str, account: Hashable, now: float) -> Place | None:
        """A place for one login, `running` or in line; None when the line of its network is full."""
        place = Place(peer_network, account)
        state = self._networks.get(peer_network) or _Network()
        if self._has_room(state, account):
            place.running = True
            state.busy[account] += 1
        elif len(state.line) < self._line_limit(peer_network, now):
            state.line[place] = None
        else:
            return None
        self._networks[peer_network] = state
        return place

    def failed(self, place: Place, now: float) -> Verdict:
        """Count a wrong password; its place is kept until `leave`, which is due after the verdict's wait."""
        wait = max(
            self._pace.delay(self._by_network.add(place.network, now)),
            self._pace.delay(self._by_account.add(place.account, now)),
        )
        self._by_pair.add((place.network, place.account), now)
        line = self._networks[place.network].line
        turned_away = tuple(line)[self._line_limit(place.network, now) :]
        for other in turned_away:
            self.leave(other)
        return Verdict(wait, turned_away)

    def succeeded(self, place: Place, now: float) -> None:
        """Forgive what this network did wrong on this account, and only that."""
        pair = (place.network, place.account)
        mistakes = self._by_pair.level(pair, now)
        for table, key in (
            (self._by_network, place.network),
            (self._by_account, place.account),
            (self._by_pair, pair),
        ):
            table.forgive(key, mistakes, now)

    def leave(self, place: Place) -> Place | None:
        """End `place`, in line or running; return the place that may run in its stead, already `running`."""
        if place.left:
            return None
        place.left = True
        state = self._networks[place.network]
        following = None
        if place.running:
            place.running = False
            state.busy[place.account] -= 1
            state.busy += Counter()  # drops what has become zero
            following = next((other for other in state.line if self._has_room(state, other.account)), None)
        else:
            del state.line[place]
        if following is not None:
            del state.line[following]
            following.running = True
            state.busy[following.account] += 1
        if not state.busy and not state.line:
            del self._networks[place.network]
        return following

    def failures(self, peer_network: str, account: Hashable, now: float) -> tuple[float, float]:
        """How many failures count against the network and against the account."""
        return self._by_network.level(peer_network, now), self._by_account.level(account, now)

    def under_way(self) -> int:
        """How many logins run or wait."""
        return sum(state.busy.total() + len(state.line) for state in self._networks.values())

    def _has_room(self, state: _Network, account: Hashable) -> bool:
        return state.busy.total() < self._places.for_network and state.busy[account] < self._places.for_account

    def _line_limit(self, peer_network: str, now: float) -> int:
        failing = self._by_network.level(peer_network, now) >= self._places.patience
        return self._places.short_line if failing else self._places.line
