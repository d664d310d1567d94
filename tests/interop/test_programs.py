"""What happens to a test whose program is not there."""

from __future__ import annotations

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.interop.programs import program


class Missing(SynchronousTestCase):
    def test_on_a_laptop_the_test_is_skipped_by_name(self) -> None:
        """Whoever reads the report knows what to install."""
        error = self.assertRaises(SkipTest, program, "no-such-mailer", {})
        self.assertEqual(str(error), "no-such-mailer is not installed")

    def test_where_everything_must_be_there_it_fails(self) -> None:
        """A CI machine without swaks would otherwise be green."""
        error = self.assertRaises(AssertionError, program, "no-such-mailer", {"MAILSVC_REQUIRE_ALL": "1"})
        self.assertIn("no-such-mailer is not installed", str(error))
