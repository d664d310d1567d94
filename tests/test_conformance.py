"""Every rule has a test, and the page says which."""

from __future__ import annotations

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.conformance import PAGE, REQUIRED, declared, page


class ConformanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not PAGE.parent.exists():
            raise SkipTest("an installed mailsvc without its documentation")
        self.rules = {rule for group in REQUIRED.values() for rule in group}

    def test_every_rule_has_a_test(self) -> None:
        """No row of the table is empty."""
        self.assertEqual(sorted(self.rules - set(declared())), [])

    def test_every_declared_rule_exists(self) -> None:
        """A test that names a rule in other words would be in no row."""
        self.assertEqual(sorted(set(declared()) - self.rules), [])

    def test_the_page_is_up_to_date(self) -> None:
        """What is committed is what would be written now."""
        self.assertEqual(PAGE.read_text("utf-8"), page(), "run python -m tests.conformance --write")

    def test_names_are_unique(self) -> None:
        """A rule stands in one group."""
        self.assertEqual(sum(map(len, REQUIRED.values())), len(self.rules))
