"""Lists of recipients: what they say is what the resolver says, and without the key they say nothing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.backup.forms import Form, NameRules, RecipientList, Verdict, entry, judge, name_rules, recipient_list
from mailsvc.backup.listing import ListError, list_in_clear, names_in, read_list, written
from mailsvc.backup.place import list_url, primary_of
from mailsvc.directory.resolve import resolve
from mailsvc.directory.tables import RESERVED, DomainRules
from mailsvc.mail.address import Address, parse_address
from mailsvc.relay.srs import Rewriter
from mailsvc.relay.url import RelayError
from tests.test_directory_resolve import Memory, tables

KEY = b"k" * 32
DOMAIN = "a.org"

parts = st.text("aAbB", min_size=1, max_size=2)
names = st.lists(parts, min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from([".".join(words), "".join(words), "+".join(words)])
)
asked = st.one_of(names, st.sampled_from(["postmaster", "Postmaster", "abuse", "postmaster+x", "abuse.x"]))


def accepts(address: Address, memory: Memory) -> bool:
    refusal = resolve(address, memory).refusal
    return refusal is None or refusal.code < 500


def listed(memory: Memory, key: bytes | None = KEY, domain: str = DOMAIN) -> RecipientList:
    """What the primary makes of its tables."""
    rules = memory.domains[domain]
    addresses = [each.address for each in memory.mailboxes.values()]
    addresses += [each.address for each in memory.aliases.values()]
    found = ((each.name, accepts(each, memory)) for each in addresses if each.domain == domain)
    reserved = ((name, accepts(Address(name, domain), memory)) for name in sorted(RESERVED))
    catch_all = rules.catch_all is not None and accepts(rules.catch_all, memory)
    return recipient_list(domain, name_rules(rules, catch_all=catch_all, rewrites=False), found, reserved, key)


def known_in(found: RecipientList) -> Callable[[str], bool | None]:
    def known(text: str) -> bool | None:
        return True if text in found.accepted else False if text in found.refused else None

    return known


def verdict(name: str, found: RecipientList, key: bytes | None = KEY) -> Verdict:
    return judge(parse_address(f"{name}@{found.domain}"), found.rules, known_in(found), key)


class TruthTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=400)
    @given(
        st.lists(names, max_size=5, unique_by=str.casefold),
        st.lists(names, max_size=3, unique_by=str.casefold),
        st.sets(st.integers(0, 4)),
        st.sampled_from(["", "+", "-"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.lists(asked, min_size=1, max_size=10),
    )
    def test_as_the_resolver_says(
        self,
        accounts: list[str],
        aliases: list[str],
        disabled: set[int],
        separator: str,
        dots: bool,
        case: bool,
        catch_all: bool,
        questions: list[str],
    ) -> None:
        """Whatever the tables are: the backup takes what the primary takes, and refuses what it refuses.

        Rule: Backup MX: the primary's list says what the primary says
        """
        rules: dict[str, Any] = {"separator": separator, "ignore_dots": dots, "exact_case": case}
        if catch_all:
            rules["catch_all"] = parse_address("zz@a.org")
        memory = tables(
            [f"{name}@a.org" for name in accounts] + ["zz@a.org"],
            {f"{name}@a.org": ["zz@a.org"] for name in aliases},
            [f"{name}@a.org" for number, name in enumerate(accounts) if number in disabled],
            **rules,
        )
        found = read_list(written(listed(memory)), DOMAIN)
        for name in (*questions, *accounts, *aliases, "zz", *(f"{name}+x" for name in accounts)):
            address = Address(name, DOMAIN)
            if any(step.text.startswith("may mean") for step in resolve(address, memory).steps):
                continue  # a base that stands behind an ambiguous whole name is the one thing that is not told
            wanted = Verdict.ACCEPT if accepts(address, memory) else Verdict.REFUSE
            self.assertEqual(verdict(name, found), wanted, f"{name}: {resolve(address, memory)}")

    def test_ambiguous(self) -> None:
        """Where dots do not count, a name that may mean two people is refused, and each as it is written is taken."""
        found = listed(tables(["a.b@a.org", "ab@a.org"], ignore_dots=True))
        self.assertEqual(verdict("a.b", found), Verdict.ACCEPT)
        self.assertEqual(verdict("ab", found), Verdict.ACCEPT)
        found = listed(tables(["a.bc@a.org", "ab.c@a.org"], ignore_dots=True, catch_all=parse_address("a.bc@a.org")))
        self.assertEqual(verdict("abc", found), Verdict.REFUSE)
        self.assertEqual(verdict("x", found), Verdict.ACCEPT)

    def test_bounces_of_forwarded_mail(self) -> None:
        """Whether a rewritten sender is genuine only the primary knows: later, and never yes."""
        sender = Rewriter(b"s" * 32).forward(parse_address("bob@b.example"), DOMAIN, 0.0)
        assert sender is not None
        plain, rewriting = NameRules("+"), NameRules("+", rewrites=True)
        self.assertEqual(judge(sender, plain, lambda _: None, KEY), Verdict.REFUSE)
        self.assertEqual(judge(sender, rewriting, lambda _: None, KEY), Verdict.LATER)


class SecretTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.lists(st.text("ghjkmnpq", min_size=5, max_size=20), min_size=1, max_size=8, unique=True), st.integers())
    def test_nothing_without_the_key(self, given_names: list[str], seed: int) -> None:
        """No name stands in a list, nor a digest that somebody without the key could make, and two keys have nothing
        in common.

        Rule: Backup MX: the list tells nobody the addresses
        """
        key = hashlib.sha256(b"%d" % seed).digest()
        memory = tables([f"{name}@a.org" for name in given_names])
        octets = written(listed(memory, key))
        found = read_list(octets, DOMAIN)
        for name in given_names:
            self.assertNotIn(name.encode(), octets)
            address = f"{name}@a.org"
            for text in (name, address, f"={name}", f"mailsvc recipients 1\0a.org\0={name}"):
                for guess in (hashlib.sha256(text.encode()), hashlib.sha1(text.encode()), hashlib.md5(text.encode())):
                    self.assertNotIn(guess.hexdigest().encode(), octets)
                self.assertNotIn(hmac.new(b"", text.encode(), "sha256").hexdigest().encode(), octets)
            self.assertNotIn(entry(Form.EXACT, name, DOMAIN, KEY), found.accepted)
            self.assertIn(entry(Form.EXACT, name, DOMAIN, key), found.accepted)
            self.assertNotIn(entry(Form.EXACT, name, "b.org", key), found.accepted, "of another domain it is another")
        self.assertTrue(all(len(each) == 64 for each in found.accepted | found.refused))

    def test_the_order_says_nothing(self) -> None:
        """Equal recipients make equal octets, in whatever order they were defined."""
        one, two = (tables([f"{name}@a.org" for name in order]) for order in ("abc", "cba"))
        self.assertEqual(written(listed(one)), written(listed(two)))


class TextTests(SynchronousTestCase):
    def test_files(self) -> None:
        """A name or an address on a line, comments, tables of other servers, addresses of other domains."""
        lines = ["# who", "", "alice", "Bob@A.org  OK", "carol@b.org OK", "  dora@a.org\tx", "@b.org"]
        self.assertEqual(names_in(lines, DOMAIN), (["alice", "Bob", "dora"], False))
        for every in ("@a.org", "*", "*@a.org", "@A.ORG x"):
            self.assertEqual(names_in([every], DOMAIN), ([], True), every)
        with self.assertRaisesRegex(ListError, "line 2"):
            names_in(["alice", "a b@@"[2:]], DOMAIN)

    def test_in_clear(self) -> None:
        """A file's names in any case and with details; its postmaster always."""
        found = list_in_clear(DOMAIN, ["Alice"], separator="+", catch_all=False)
        for name, wanted in [("ALICE", True), ("alice+x", True), ("postmaster", True), ("bob", False)]:
            self.assertEqual(verdict(name, found, None) is Verdict.ACCEPT, wanted, name)

    def test_what_is_no_list(self) -> None:
        """Whatever a primary sends that is not exactly a list is refused with a sentence."""
        good = written(listed(tables()))
        self.assertEqual(read_list(good, DOMAIN), listed(tables()))
        for bad in (
            b"",
            b"\xff",
            b"[" * 100_000,
            b"[]",
            good.replace(b"recipients 1", b"recipients 9"),
            good.replace(b'"a.org"', b'"b.org"'),
            good.replace(b'"+"', b'"++"'),
            good.replace(b'"catch_all":false', b'"catch_all":0'),
            good.replace(b'"refused":[', b'"refused":["x",'),
            good.replace(b'"refused":[]', b'"refused":{}'),
        ):
            self.assertRaises(ListError, read_list, bad, DOMAIN)

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_octets(self, octets: bytes) -> None:
        """There is no other failure."""
        self.assertRaises(ListError, read_list, octets, DOMAIN)

    def test_places(self) -> None:
        """The URL of a primary demands both certificates."""
        relay = primary_of("https://mx1.example.org:8443/?cert=mx2")
        self.assertEqual(list_url(relay, DOMAIN), "https://mx1.example.org:8443/recipients/a.org")
        self.assertEqual(
            list_url(primary_of("https://[2001:db8::1]:8443?cert=mx2"), DOMAIN),
            "https://[2001:db8::1]:8443/recipients/a.org",
        )
        pin = "0" * 64
        primary_of(f"https://192.0.2.1:8443?verify=none&pin={pin}&cert=/etc/mx2")
        for text, words in [
            ("http://a:1?cert=x", "https://HOST:PORT"),
            ("https://a?cert=x", "with the port"),
            ("https://a:1", "cert=FOLDER"),
            ("https://user@a:1?cert=x", "no login"),
            ("https://a:1?cert=x&verify=none", "must be known"),
            ("https://a:1?cert=x&verify=chain", "must be known"),
            ("https://a:70000?cert=x", "https://a: the port"),
        ]:
            with self.assertRaisesRegex(RelayError, words):
                primary_of(text)


class RulesTests(SynchronousTestCase):
    def test_flags(self) -> None:
        """What a domain does with names travels with its list."""
        rules = name_rules(DomainRules("a.org", "-", True, True), catch_all=True, rewrites=True)
        found = RecipientList(DOMAIN, rules, frozenset(), frozenset())
        self.assertEqual(read_list(written(found), DOMAIN).rules, NameRules("-", True, True, True, True))
