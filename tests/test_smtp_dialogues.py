"""SMTP dialogues: each file of tests/dialogues/smtp, in several segmentations."""

from __future__ import annotations

from tests.dialogue import DialogueCase, add_dialogues


class SMTPDialogueTests(DialogueCase):
    """One test a file."""

    def test_there_are_some(self) -> None:
        """The files were found."""
        self.assertGreater(len([name for name in dir(self) if name.startswith("test_")]), 20)


add_dialogues(SMTPDialogueTests, "smtp")
