"""Where addresses lead: the walk of `mailsvc.directory.resolve`, on tables that are dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.directory.resolve import DEPTH, REACH, Resolution, resolve
from mailsvc.directory.tables import AliasEntry, DomainRules, Mailbox, Pipe, Program, Target
from mailsvc.mail.address import Address, parse_address

HOST = "mail.example.org"
SORTER = Program(("/usr/bin/sorter", "-f"))


@dataclass
class Memory:
    """`mailsvc.directory.tables.Tables` of dictionaries."""

    domains: dict[str, DomainRules] = field(default_factory=dict)
    aliases: dict[str, AliasEntry] = field(default_factory=dict)
    mailboxes: dict[str, Mailbox] = field(default_factory=dict)

    def domain(self, name: str) -> DomainRules | None:
        return self.domains.get(name)

    def alias(self, key: str) -> AliasEntry | None:
        return self.aliases.get(key)

    def mailbox(self, key: str) -> Mailbox | None:
        return self.mailboxes.get(key)

    def without_dots(self, key: str, domain: str) -> Sequence[str]:
        bare = key.replace(".", "")
        return [k for k in {*self.aliases, *self.mailboxes} if k.endswith("@" + domain) and k.replace(".", "") == bare]

    def oldest(self, domain: str | None) -> Mailbox | None:
        enabled = (m for m in self.mailboxes.values() if not m.disabled and domain in (None, m.address.domain))
        return min(enabled, key=lambda mailbox: mailbox.id, default=None)


def target(text: str | Program) -> Target:
    return text if isinstance(text, Program) else parse_address(text)


def tables(
    accounts: Sequence[str] = ("alice@a.org", "bob@a.org"),
    aliases: Mapping[str, Sequence[str | Program]] | None = None,
    disabled: Sequence[str] = (),
    **rules: Any,
) -> Memory:
    """Domains a.org (with these rules) and b.org, and what is named in them."""
    memory = Memory()
    memory.domains = {"a.org": replace(DomainRules("a.org"), **rules), "b.org": DomainRules("b.org")}
    for number, text in enumerate(accounts, 1):
        address = parse_address(text)
        memory.mailboxes[address.key] = Mailbox(number, address, text in disabled)
    for text, targets in (aliases or {}).items():
        address = parse_address(text)
        memory.aliases[address.key] = AliasEntry(address, tuple(target(t) for t in targets))
    return memory


class ResolveCase(SynchronousTestCase):
    def assert_leads(self, memory: Memory, address: str, *accounts: str, programs: bool = False) -> Resolution:
        """`address` is taken, for exactly these accounts."""
        found = resolve(parse_address(address), memory, hostname=HOST, programs=programs)
        self.assertEqual((found.refusal, [str(m.address) for m in found.accounts]), (None, list(accounts)), found.steps)
        return found

    def assert_refused(self, memory: Memory, address: str, code: int, enhanced: str) -> Resolution:
        """`address` is refused with this code."""
        found = resolve(parse_address(address), memory, hostname=HOST)
        assert found.refusal is not None, found.steps
        self.assertEqual((found.refusal.code, found.refusal.enhanced), (code, enhanced), found.steps)
        return found


class Names(ResolveCase):
    """One name, without aliases."""

    def test_account(self) -> None:
        """An account's own address leads to it, in any case."""
        self.assert_leads(tables(), "alice@a.org", "alice@a.org")
        self.assert_leads(tables(), "ALICE@a.org", "alice@a.org")
        self.assert_leads(tables(), '"alice"@a.org', "alice@a.org")

    def test_utf8(self) -> None:
        """A local part outside ASCII is a name like any other, with details too.

        Rule: SMTPUTF8: a mailbox with a UTF-8 local part
        """
        memory = tables(["jörg@a.org", "用户@b.org"])
        self.assert_leads(memory, "JÖRG+x@a.org", "jörg@a.org")
        self.assert_leads(memory, "用户@b.org", "用户@b.org")

    def test_unknown(self) -> None:
        """Nobody of that name, and a domain that is not ours, are told apart."""
        self.assert_refused(tables(), "carol@a.org", 550, "5.1.1")
        found = self.assert_refused(tables(), "alice@c.org", 550, "5.7.1")
        self.assertFalse(found.is_local)

    def test_disabled(self) -> None:
        """A disabled account is refused with a code of its own.

        Rule: Disabled accounts are 550 5.2.1
        """
        self.assert_refused(tables(disabled=["bob@a.org"]), "bob@a.org", 550, "5.2.1")

    def test_detail(self) -> None:
        """What stands behind the first separator does not count, unless the whole is a name itself.

        Rule: Plus addressing with a configurable separator
        """
        memory = tables(["alice@a.org", "bob+old@a.org", "bob@a.org"])
        self.assert_leads(memory, "alice+@a.org", "alice@a.org")
        self.assert_leads(memory, "alice+a+b@a.org", "alice@a.org")
        self.assert_leads(memory, "bob+old@a.org", "bob+old@a.org")
        self.assert_leads(memory, "bob+new@a.org", "bob@a.org")
        self.assert_refused(memory, "+alice@a.org", 550, "5.1.1")

    def test_separator(self) -> None:
        """The separator is the domain's: another character, or none.

        Rule: Plus addressing with a configurable separator
        """
        self.assert_leads(tables(separator="-"), "alice-x@a.org", "alice@a.org")
        self.assert_refused(tables(separator="-"), "alice+x@a.org", 550, "5.1.1")
        self.assert_refused(tables(separator=""), "alice+x@a.org", 550, "5.1.1")

    def test_dots(self) -> None:
        """Dots count unless the domain ignores them; the exact name wins, two that fit equally are ambiguous.

        Rule: Dots or case ignored if configured
        """
        self.assert_refused(tables(), "a.lice@a.org", 550, "5.1.1")
        memory = tables(["alice@a.org", "b.ob@a.org", "bo.b@a.org"], ignore_dots=True)
        self.assert_leads(memory, "a.l.ice@a.org", "alice@a.org")
        self.assert_leads(memory, "a.lice+x@a.org", "alice@a.org")
        self.assert_leads(memory, "bo.b@a.org", "bo.b@a.org")
        self.assert_refused(memory, "bob@a.org", 550, "5.1.4")

    def test_case(self) -> None:
        """Case counts only where the domain says so, and never for postmaster.

        Rule: Dots or case ignored if configured
        """
        memory = tables(["Alice@a.org", "postmaster@a.org"], exact_case=True)
        self.assert_leads(memory, "Alice+X@a.org", "Alice@a.org")
        self.assert_refused(memory, "alice@a.org", 550, "5.1.1")
        self.assert_leads(memory, "POSTMASTER@a.org", "postmaster@a.org")

    def test_catch_all(self) -> None:
        """The catch-all gets what nobody else has, and not what a disabled account has.

        Rule: Catch-all
        """
        memory = tables(disabled=["bob@a.org"], catch_all=parse_address("alice@a.org"))
        self.assert_leads(memory, "whoever@a.org", "alice@a.org")
        self.assert_refused(memory, "bob@a.org", 550, "5.2.1")
        self.assert_refused(memory, "whoever@b.org", 550, "5.1.1")

    def test_catch_all_into_nothing(self) -> None:
        """A catch-all that nobody has ends."""
        self.assert_refused(tables(catch_all=parse_address("nobody@a.org")), "x@a.org", 550, "5.1.1")


class Reserved(ResolveCase):
    """postmaster and abuse."""

    def test_falls_back(self) -> None:
        """Undefined: the domain's postmaster, else its catch-all, else its oldest account, else the server's.

        Rule: postmaster and abuse are deliverable
        """
        for name in ("postmaster", "abuse", "Postmaster", "ABUSE"):
            self.assert_leads(tables(), f"{name}@a.org", "alice@a.org")
            self.assert_leads(tables(), f"{name}@b.org", "alice@a.org")
            self.assert_leads(tables(catch_all=parse_address("bob@a.org")), f"{name}@a.org", "bob@a.org")
            both = tables(catch_all=parse_address("alice@a.org"), postmaster=parse_address("bob@a.org"))
            self.assert_leads(both, f"{name}@a.org", "bob@a.org")

    def test_defined(self) -> None:
        """An account or an alias of that name comes first."""
        self.assert_leads(tables(["alice@a.org", "abuse@a.org"]), "abuse@a.org", "abuse@a.org")
        memory = tables(aliases={"postmaster@a.org": ["bob@a.org"]})
        self.assert_leads(memory, "postmaster@a.org", "bob@a.org")

    def test_whatever_is_wrong(self) -> None:
        """Disabled, unknown, a loop, a program while there are none: then the next one."""
        memory = tables(["postmaster@a.org", "alice@a.org"], disabled=["postmaster@a.org"])
        self.assert_leads(memory, "postmaster@a.org", "alice@a.org")
        for wrong in ("nobody@a.org", "postmaster@a.org", SORTER):
            memory = tables(
                aliases={"postmaster@a.org": [wrong]}, disabled=["alice@a.org"], postmaster=parse_address("alice@a.org")
            )
            self.assert_leads(memory, "postmaster@a.org", "bob@a.org")

    def test_of_the_server(self) -> None:
        """The postmaster of the server itself exists, also when its name is no domain of ours; nobody else there."""
        found = self.assert_leads(tables(), f"postmaster@{HOST}", "alice@a.org")
        self.assertTrue(found.is_reserved)
        self.assert_refused(tables(), f"alice@{HOST}", 550, "5.7.1")
        self.assert_refused(tables(), "postmaster@c.org", 550, "5.7.1")

    def test_nobody_at_all(self) -> None:
        """Without any account there is nobody to give it to."""
        self.assert_refused(tables([]), "postmaster@a.org", 550, "5.1.1")

    def test_as_a_target(self) -> None:
        """An alias may lead to a postmaster that nobody has defined."""
        self.assert_leads(tables(aliases={"info@b.org": ["postmaster@a.org"]}), "info@b.org", "alice@a.org")


class Aliases(ResolveCase):
    def test_one_to_many(self) -> None:
        """Several targets, across domains, through other aliases; every account once.

        Rule: Aliases: one to many, across domains
        """
        memory = tables(
            ["alice@a.org", "bob@a.org", "carol@b.org"],
            {
                "all@b.org": ["staff@a.org", "carol@b.org", "alice+all@a.org"],
                "staff@a.org": ["alice@a.org", "bob@a.org"],
            },
        )
        self.assert_leads(memory, "ALL+x@b.org", "alice@a.org", "bob@a.org", "carol@b.org")

    def test_before_the_account(self) -> None:
        """An alias stands before the account of its name, and may keep a copy by naming it."""
        self.assert_leads(tables(aliases={"bob@a.org": ["alice@a.org"]}), "bob@a.org", "alice@a.org")
        both = tables(aliases={"bob@a.org": ["alice@a.org", "Bob+copy@a.org"]})
        self.assert_leads(both, "bob@a.org", "alice@a.org", "bob@a.org")

    def test_loop(self) -> None:
        """A loop that reaches nobody is refused; one that reaches somebody is not followed twice.

        Rule: Aliases: loops found at run time
        """
        memory = tables(aliases={"x@a.org": ["y@a.org"], "y@a.org": ["x@a.org"]})
        self.assert_refused(memory, "x@a.org", 550, "5.4.6")
        self.assert_refused(tables(aliases={"x@a.org": ["x@a.org"]}), "x@a.org", 550, "5.4.6")
        memory = tables(aliases={"x@a.org": ["y@a.org", "bob@a.org"], "y@a.org": ["x@a.org"]})
        self.assert_leads(memory, "y@a.org", "bob@a.org")

    def test_elsewhere(self) -> None:
        """An alias may lead to other servers, also to nobody else; that is no way for strangers to write there.

        Rule: Aliases: to remote addresses
        """
        found = self.assert_leads(tables(aliases={"x@a.org": ["alice@a.org", "y@c.org"]}), "x@a.org", "alice@a.org")
        self.assertEqual([str(remote) for remote in found.remotes], ["y@c.org"])
        found = self.assert_leads(tables(aliases={"x@a.org": ["y@c.org"]}), "x@a.org")
        self.assertEqual([str(remote) for remote in found.remotes], ["y@c.org"])
        self.assert_refused(tables(), "y@c.org", 550, "5.7.1")

    def test_some_are_wrong(self) -> None:
        """Targets that are unknown or disabled do not hold up the others; alone they are the reason."""
        memory = tables(aliases={"x@a.org": ["alice@a.org", "gone@a.org", "bob@a.org"]}, disabled=["bob@a.org"])
        found = self.assert_leads(memory, "x@a.org", "alice@a.org")
        told = {step.address: step.text for step in found.steps}
        self.assertIn("nobody", told["gone@a.org"])
        self.assertIn("disabled", told["bob@a.org"])
        memory = tables(aliases={"x@a.org": ["gone@a.org", "bob@a.org"]}, disabled=["bob@a.org"])
        self.assert_refused(memory, "x@a.org", 550, "5.2.1")

    def test_programs(self) -> None:
        """A program is reached only where programs are allowed."""
        memory = tables(aliases={"x@a.org": [SORTER, "alice@a.org"]})
        self.assert_refused(memory, "x@a.org", 550, "5.7.1")
        found = self.assert_leads(memory, "x@a.org", "alice@a.org", programs=True)
        self.assertEqual(found.programs, (Pipe(parse_address("x@a.org"), SORTER),))

    def test_depth(self) -> None:
        """So many aliases one behind the other are followed, and not one more; that is temporary."""
        chain = {f"x{n}@a.org": [f"x{n + 1}@a.org"] for n in range(DEPTH)}
        chain[f"x{DEPTH}@a.org"] = ["alice@a.org"]
        self.assert_leads(tables(aliases=chain), "x1@a.org", "alice@a.org")
        self.assert_refused(tables(aliases=chain), "x0@a.org", 451, "4.3.5")

    def test_reach(self) -> None:
        """So many places are reached, and not one more; that is temporary."""
        accounts = [f"u{n}@a.org" for n in range(REACH + 1)]
        self.assert_leads(tables(accounts, {"all@a.org": accounts[:REACH]}), "all@a.org", *sorted(accounts[:REACH]))
        self.assert_refused(tables(accounts, {"all@a.org": accounts}), "all@a.org", 451, "4.3.5")

    def test_steps(self) -> None:
        """The steps tell the way, in the order in which it was gone."""
        found = resolve(parse_address("x+y@a.org"), tables(aliases={"x@a.org": ["bob@a.org"]}))
        self.assertEqual(
            [(step.depth, step.address, step.text) for step in found.steps],
            [
                (0, "x+y@a.org", "is x, with a detail behind +"),
                (0, "x+y@a.org", "is an alias that leads to bob@a.org"),
                (1, "bob@a.org", "is the account bob@a.org"),
            ],
        )


_NAMES = ["a", "b", "c", "d", "a.b", "ab", "a+b", "postmaster"]
_ADDRESSES = st.builds(Address, st.sampled_from(_NAMES), st.sampled_from(["a.org", "b.org", "c.org"]))
_OURS = st.builds(Address, st.sampled_from(_NAMES), st.sampled_from(["a.org", "b.org"]))
_TARGETS = st.lists(_ADDRESSES | st.just(SORTER), min_size=1, max_size=4, unique=True)


@st.composite
def _tables(draw: st.DrawFn) -> Memory:
    memory = Memory()
    for name in ("a.org", "b.org"):
        memory.domains[name] = DomainRules(
            name,
            draw(st.sampled_from(["+", "", "-"])),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.none() | _ADDRESSES),
            draw(st.none() | _ADDRESSES),
        )
    for number, address in enumerate(draw(st.lists(_OURS, unique=True, max_size=6)), 1):
        memory.mailboxes[address.key] = Mailbox(number, address, draw(st.booleans()))
    for address, targets in draw(st.dictionaries(_OURS, _TARGETS, max_size=8)).items():
        memory.aliases[address.key] = AliasEntry(address, tuple(targets))
    return memory


class Properties(SynchronousTestCase):
    @settings(deadline=None, max_examples=300)
    @given(_tables(), _ADDRESSES, st.booleans())
    def test_ends_in_an_answer(self, memory: Memory, address: Address, programs: bool) -> None:
        """Whatever the tables say: an end, a bounded way, every account once and enabled, somebody or a refusal."""
        found = resolve(address, memory, hostname="c.org", programs=programs)
        self.assertLess(len(found.steps), 500)
        ids = [mailbox.id for mailbox in found.accounts]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertFalse(any(mailbox.disabled for mailbox in found.accounts))
        if found.refusal is None:
            self.assertTrue(found.accounts or found.remotes or (programs and found.programs))

    @settings(deadline=None, max_examples=200)
    @given(_tables(), _ADDRESSES, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, memory: Memory, address: Address, random: Random) -> None:
        """The same definitions in another order give the same answer, step by step."""
        shuffled = Memory(memory.domains, {}, memory.mailboxes)
        for key, entry in reversed(memory.aliases.items()):
            targets = list(entry.targets)
            random.shuffle(targets)
            shuffled.aliases[key] = AliasEntry(entry.address, tuple(targets))
        self.assertEqual(resolve(address, memory), resolve(address, shuffled))

    @settings(deadline=None, max_examples=200)
    @given(_tables(), st.sampled_from(["postmaster", "Abuse"]), st.sampled_from(["a.org", "b.org"]))
    def test_reserved_names_are_deliverable(self, memory: Memory, name: str, domain: str) -> None:
        """While anybody is there, or was named elsewhere, postmaster and abuse of our domains are never refused.

        Rule: postmaster and abuse are deliverable
        """
        found = resolve(Address(name, domain), memory)
        somebody = memory.oldest(None) is not None or bool(found.remotes)
        self.assertEqual(found.refusal is None, somebody, found.steps)
