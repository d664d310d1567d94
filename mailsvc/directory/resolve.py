"""Where an address leads: through details, aliases and the rules of its domain to accounts, programs and elsewhere.

`resolve` is a pure function of an address and the `Tables`, and tells its way in words (`Step`), for ``mailsvc route
explain`` and for whoever wonders.  That mail is refused is its answer too (`Resolution.refusal`); what a size means for
an account's quota is `mailsvc.directory.quota`'s.

For one address of ours the first that fits counts: an alias of that name, then an account; both tried with the name as
it stands (dots apart, where the domain says so) and then without its detail.  Then ``postmaster`` and ``abuse``, which
every domain has (RFC 5321 section 4.5.1, RFC 2142), then the catch-all.  An alias that has itself as a target means
the account of that name: so mail can be forwarded with a copy kept.

The hardest idea: the walk is breadth-first and every alias is opened once.  So it ends whatever the tables say, the
distance of everything is its shortest, and neither result nor refusal depends on the order in which aliases were
defined.  A loop is therefore no error by itself: what it reaches gets the mail, once; only an alias that reaches
nothing but itself is refused.  Both limits are of the configuration and not of the mail, so passing them is 451: the
postmaster can mend it before the sender gives up.

What is wrong with it: an alias of ten people where one account was removed goes on to serve nine of them, and only the
steps tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailsvc.directory.tables import RESERVED, DomainRules, Mailbox, Pipe, Program, Tables, Target, key_of
from mailsvc.mail.address import Address
from mailsvc.mail.reply import Reply, reply

DEPTH = 10
"""How many aliases may stand between an address and its mailbox."""

REACH = 1000
"""How many places one address may lead to, aliases on the way included."""

NOT_OURS = reply(550, "5.7.1", "Relaying denied: the domain is not ours")
_NO_PROGRAMS = reply(550, "5.7.1", "delivery to programs is not configured")
_UNKNOWN = reply(550, "5.1.1", "No such user here")
_AMBIGUOUS = reply(550, "5.1.4", "The address may mean several mailboxes")
_DISABLED = reply(550, "5.2.1", "The account is disabled")
_LOOP = reply(550, "5.4.6", "The address leads to itself only")
_TOO_FAR = reply(451, "4.3.5", "The address leads too far; its aliases must be mended")

_WEIGHT = (_DISABLED, _AMBIGUOUS, _UNKNOWN, _LOOP)
"""Which of several reasons is told when nothing was reached: the one that says most."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was found out about ``address``; ``depth``: how many aliases were passed before."""

    address: str
    depth: int
    text: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where ``address`` leads.

    ``accounts`` (each once, in the order of their addresses), ``programs`` and ``remotes`` are where; ``refusal`` is
    the reply that refuses the address whatever the message, or None.  ``is_local``: the domain is ours.
    ``is_reserved``: postmaster or abuse, which are taken also when an account is full.
    ``bounces_only``: it is a sender that we have rewritten, to which nobody writes but with the null sender.
    """

    address: Address
    steps: tuple[Step, ...]
    accounts: tuple[Mailbox, ...]
    programs: tuple[Pipe, ...]
    remotes: tuple[Address, ...]
    refusal: Reply | None
    is_local: bool
    is_reserved: bool
    bounces_only: bool = False


def resolve(address: Address, tables: Tables, *, hostname: str = "", programs: bool = False) -> Resolution:
    """Where ``address`` leads.

    ``hostname``: our own name, whose postmaster exists also when it is no domain of ours (``RCPT TO:<postmaster>``).
    ``programs``: whether mail may be given to programs at all.  An alias may lead to other servers; an address whose
    own domain is not ours is refused (`NOT_OURS`): who may write there all the same is not known here.
    """
    walk = _Walk(tables)
    is_local = tables.domain(address.domain) is not None
    is_reserved = _is_reserved(address) and (
        is_local or (address.domain == hostname and address.name.casefold() == "postmaster")
    )
    if is_reserved and not is_local:
        walk.note(address, 0, "this server's own postmaster, whose domain is not in the tables")
    else:
        walk.run(address)
    if is_reserved:
        _insist(walk, address, tables, programs)
    return Resolution(
        address,
        tuple(walk.steps),
        tuple(sorted(walk.accounts.values(), key=lambda mailbox: (mailbox.address.key, mailbox.id))),
        tuple(sorted(walk.programs, key=lambda pipe: (pipe.address.key, pipe.program.argv))),
        tuple(walk.remotes[key] for key in sorted(walk.remotes)),
        _refusal(walk, is_local=is_local, is_reserved=is_reserved, programs=programs),
        is_local,
        is_reserved,
    )


def _refusal(walk: _Walk, *, is_local: bool, is_reserved: bool, programs: bool) -> Reply | None:
    if not is_local and not is_reserved:
        return NOT_OURS
    if is_reserved and walk.has_reached(programs=programs):
        return None
    if walk.too_far:
        return _TOO_FAR
    if walk.programs and not programs:
        return _NO_PROGRAMS
    if walk.has_reached(programs=programs):
        return None
    return next((reason for reason in _WEIGHT if reason in walk.reasons), _UNKNOWN)


def following(address: Address, tables: Tables, *, alias: str = "") -> tuple[str, tuple[Address, ...]]:
    """One step of the walk: what is opened at ``address`` ("" when it leads no further), and to which addresses.

    ``alias`` is what was opened before.  For whoever looks for loops before they are defined.
    """
    walk = _Walk(tables)
    asks = walk.look(Ask(address, alias), 1)
    return walk.opened, tuple(ask.address for ask in asks)


def _insist(walk: _Walk, address: Address, tables: Tables, programs: bool) -> None:
    """Find somebody who gets the mail of a reserved name; there is nobody only when there is no account at all."""
    for substitute, words in _substitutes(address.domain, tables):
        if walk.has_reached(programs=programs):
            return
        walk.note(address, 0, f"must always be deliverable: {words}, {substitute}")
        walk.run(substitute)
    # All of them lead astray, the oldest account too because an alias has its name: then the mailbox itself.
    last = tables.oldest(address.domain) or tables.oldest(None)
    if last is not None and not walk.has_reached(programs=programs):
        walk.note(address, 0, f"must always be deliverable: the account {last.address} itself")
        walk.accounts[last.id] = last


def _is_reserved(address: Address) -> bool:
    return address.name.casefold() in RESERVED


def _substitutes(domain: str, tables: Tables) -> Iterator[tuple[Address, str]]:
    """Who gets the mail of a postmaster that nobody has defined, in the order in which they are tried."""
    rules = tables.domain(domain)
    if rules is not None:
        if rules.postmaster is not None:
            yield rules.postmaster, "the postmaster of the domain"
        if rules.catch_all is not None:
            yield rules.catch_all, "the catch-all of the domain"
        if (oldest := tables.oldest(domain)) is not None:
            yield oldest.address, "the oldest account of the domain"
    if (oldest := tables.oldest(None)) is not None:
        yield oldest.address, "the oldest account of this server"


@dataclass(frozen=True, slots=True)
class Ask:
    """An address to look at, and the key of the alias that named it ("" for none)."""

    address: Address
    alias: str = ""


@dataclass(frozen=True, slots=True)
class _Match:
    """The key under which a name was found, and how."""

    key: str
    words: str


class _Walk:
    """What has been found so far."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._opened: set[str] = set()
        self._seen = 0
        self.steps: list[Step] = []
        self.accounts: dict[int, Mailbox] = {}
        self.programs: set[Pipe] = set()
        self.remotes: dict[str, Address] = {}
        self.reasons: set[Reply] = set()
        self.too_far = False

    @property
    def opened(self) -> str:
        """What was opened, when that is one thing at most."""
        return next(iter(self._opened), "")

    def has_reached(self, *, programs: bool) -> bool:
        """Whether somebody gets the mail."""
        return bool(self.accounts or self.remotes or (self.programs and programs))

    def run(self, start: Address) -> None:
        """Follow everything that ``start`` leads to."""
        level = [Ask(start)]
        depth = 0
        while level:
            level = [further for ask in level for further in self.look(ask, depth)]
            depth += 1
            self._seen += len(level)
            if level and (depth > DEPTH or self._seen > REACH):
                limit = f"{DEPTH} aliases one behind the other" if depth > DEPTH else f"{REACH} places"
                self.note(level[0].address, depth, f"not followed: {start} leads further than {limit}")
                self.too_far = True
                return

    def note(self, address: Address, depth: int, text: str) -> None:
        """Remember a step."""
        self.steps.append(Step(str(address), depth, text))

    def _fail(self, reason: Reply, address: Address, depth: int, text: str) -> list[Ask]:
        self.reasons.add(reason)
        self.note(address, depth, text)
        return []

    def look(self, ask: Ask, depth: int) -> list[Ask]:
        """What one address leads to."""
        address = ask.address
        rules = self._tables.domain(address.domain)
        if rules is None:
            self.remotes[address.key] = address
            self.note(address, depth, f"leads elsewhere: {address.domain} is not a domain of ours")
            return []
        found = self._find(address, rules)
        if len(found) > 1:
            names = " and ".join(match.key for match in found)
            return self._fail(_AMBIGUOUS, address, depth, f"may mean {names}: the domain ignores dots")
        if found:
            return self._follow(ask, found[0], depth)
        if _is_reserved(address) and depth > 0:
            for substitute, words in _substitutes(address.domain, self._tables):
                self.note(address, depth, f"must always be deliverable: {words}, {substitute}")
                return self._once(f"reserved {address.key}", Ask(substitute), address, depth)
        elif rules.catch_all is not None and not _is_reserved(address):
            self.note(address, depth, f"nobody has this name; the catch-all of {rules.name} is {rules.catch_all}")
            return self._once(f"catch-all {rules.name}", Ask(rules.catch_all), address, depth)
        return self._fail(_UNKNOWN, address, depth, "nobody has this name")

    def _follow(self, ask: Ask, match: _Match, depth: int) -> list[Ask]:
        address = ask.address
        if match.words:
            self.note(address, depth, match.words)
        entry = self._tables.alias(match.key)
        if entry is not None and match.key != ask.alias:
            if match.key in self._opened:
                return self._fail(_LOOP, address, depth, "was followed already")
            self._opened.add(match.key)
            targets = sorted(entry.targets, key=_order)
            self.note(address, depth, f"is an alias that leads to {', '.join(map(str, targets))}")
            self.programs.update(Pipe(entry.address, target) for target in targets if isinstance(target, Program))
            self._seen += sum(isinstance(target, Program) for target in targets)
            return [Ask(target, match.key) for target in targets if isinstance(target, Address)]
        mailbox = self._tables.mailbox(match.key)
        if mailbox is None:
            return self._fail(_LOOP, address, depth, "is an alias that leads to itself, and no account has this name")
        if mailbox.disabled:
            return self._fail(_DISABLED, address, depth, "is an account that is disabled")
        again = " (already found)" if mailbox.id in self.accounts else ""
        self.accounts[mailbox.id] = mailbox
        self.note(address, depth, f"is the account {mailbox.address}{again}")
        return []

    def _once(self, what: str, ask: Ask, address: Address, depth: int) -> list[Ask]:
        if what in self._opened:
            return self._fail(_UNKNOWN, address, depth, "was followed already")
        self._opened.add(what)
        return [ask]

    def _find(self, address: Address, rules: DomainRules) -> list[_Match]:
        """Under which keys the tables know the name: one, none, or several that differ by dots only."""
        name = address.name
        if found := self._known(name, rules, ""):
            return found
        base, separator, _ = name.partition(rules.separator) if rules.separator else (name, "", "")
        if not separator or not base:
            return []
        return self._known(base, rules, f"is {base}, with a detail behind {rules.separator}")

    def _known(self, name: str, rules: DomainRules, words: str) -> list[_Match]:
        key = key_of(name, rules.name)
        if self._fits(key, name, rules):
            return [_Match(key, words)]
        if not rules.ignore_dots:
            return []
        near = sorted(set(self._tables.without_dots(key, rules.name)))
        dotless = f"{words}; " * bool(words) + "dots do not count here"
        return [_Match(other, f"{dotless}: {other}") for other in near if self._fits(other, name, rules)]

    def _fits(self, key: str, name: str, rules: DomainRules) -> bool:
        """Whether an alias or an account has this key, and the right case where that matters."""
        entries = [entry for entry in (self._tables.alias(key), self._tables.mailbox(key)) if entry is not None]
        if not rules.exact_case or name.casefold() in RESERVED:
            return bool(entries)
        return any(_undotted(entry.address.name, rules) == _undotted(name, rules) for entry in entries)


def _undotted(name: str, rules: DomainRules) -> str:
    return name.replace(".", "") if rules.ignore_dots else name


def _order(target: Target) -> tuple[int, str]:
    return (1, str(target)) if isinstance(target, Program) else (0, target.key)
