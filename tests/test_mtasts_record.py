"""MTA-STS: the record and the policy (RFC 8461 section 3)."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mtasts.record import LONGEST_AGE, PolicyError, PolicyMode, StsPolicy, parse_policy, record_id

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.Example.net\r\nmax_age: 604800\r\n"


class Records(SynchronousTestCase):
    """The TXT record."""

    def test_the_id(self) -> None:
        """The id is found among other records, with any spaces and further fields."""
        self.assertEqual(record_id(["v=spf1 -all", "v=STSv1; id=20160831085700Z;"]), "20160831085700Z")
        self.assertEqual(record_id(["v=STSv1;  id = a1 ; x=y"]), "a1")

    def test_none(self) -> None:
        """Without a record of its version there is no policy."""
        self.assertIsNone(record_id([]))
        self.assertIsNone(record_id(["v=STSv10; id=1", "V=STSv1; id=1", "x"]))

    def test_wrong(self) -> None:
        """Two records, or one without a proper id, are said to be wrong."""
        for texts in (["v=STSv1; id=1", "v=STSv1; id=2"], ["v=STSv1"], ["v=STSv1; id="], ["v=STSv1; id=a-b"]):
            self.assertRaises(PolicyError, record_id, texts)


class Policies(SynchronousTestCase):
    """The policy."""

    def test_whole(self) -> None:
        """A policy with host names and a pattern."""
        policy = parse_policy(POLICY)
        self.assertEqual(policy, StsPolicy(PolicyMode.ENFORCE, ("mail.example.com", "*.example.net"), 604800))

    def test_which_hosts_fit(self) -> None:
        """A wildcard is exactly one label; letter case and a final dot do not matter."""
        policy = parse_policy(POLICY)
        self.assertTrue(all(map(policy.allows, ("MAIL.example.com.", "mx1.example.net"))))
        self.assertFalse(any(map(policy.allows, ("example.net", "a.b.example.net", "mail.example.com.evil", ""))))

    def test_what_is_passed_over(self) -> None:
        """LF alone, empty lines, unknown fields, and the second of two."""
        body = b"version: STSv1\nmode: testing\nmode: none\n\nfuture: x\nmx: a.example\nmax_age: 99999999999\n"
        self.assertRaises(PolicyError, parse_policy, body)
        policy = parse_policy(body.replace(b"99999999999", b"999999999"))
        self.assertEqual(policy, StsPolicy(PolicyMode.TESTING, ("a.example",), LONGEST_AGE))

    def test_none_needs_no_mx(self) -> None:
        """A domain that gives its policy up names no host."""
        self.assertEqual(parse_policy(b"version: STSv1\nmode: none\nmax_age: 0\n").mx, ())

    def test_wrong(self) -> None:
        """What cannot be read is no policy, never a weaker one."""
        for body in (
            b"",
            b"<html>",
            POLICY.replace(b"STSv1", b"STSv2"),
            POLICY.replace(b"enforce", b"Enforce"),
            POLICY.replace(b"max_age: 604800", b"max_age: -1"),
            POLICY.replace(b"max_age: 604800", b""),
            b"version: STSv1\nmode: enforce\nmax_age: 1\n",
            POLICY.replace(b"mail.example.com", b"*"),
            POLICY.replace(b"mail.example.com", b"*.*.example.com"),
            POLICY + b"\xff",
            POLICY + b"x" * 70_000,
        ):
            self.assertRaises(PolicyError, parse_policy, body)

    @given(st.binary(max_size=300), st.booleans())
    @settings(deadline=None)
    def test_nothing_else_is_raised(self, junk: bytes, behind: bool) -> None:
        """Whatever a web server sends, the answer is a policy or a `PolicyError`."""
        with contextlib.suppress(PolicyError):
            parse_policy(POLICY + junk if behind else junk)
