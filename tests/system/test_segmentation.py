"""One script in every segmentation, as in ``tests/test_wire_segmentation.py``, with more scripts."""

from __future__ import annotations

from hypothesis import given, settings

from tests.test_wire_segmentation import SegmentationCase, pop3_scripts, smtp_scripts, some_places


class ManyScripts(SegmentationCase):
    """Identical replies and identical bodies."""

    @settings(deadline=None, max_examples=60)
    @given(smtp_scripts, some_places)
    def test_smtp(self, script: bytes, places: list[int]) -> None:
        """SMTP in clear.

        Rule: PIPELINING
        """
        self.same_smtp(script, places)

    @settings(deadline=None, max_examples=40)
    @given(smtp_scripts, some_places)
    def test_smtp_in_tls(self, script: bytes, places: list[int]) -> None:
        """SMTP inside TLS."""
        self.same_smtp_in_tls(script, places)

    @settings(deadline=None, max_examples=60)
    @given(pop3_scripts, some_places)
    def test_pop3(self, script: bytes, places: list[int]) -> None:
        """POP3, inside TLS."""
        self.same_pop3(script, places)
