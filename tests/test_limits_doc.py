"""docs/limits.rst names every limit, with the default that is in force."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import mailsvc
from mailsvc.config import SETTINGS

PAGE = Path(mailsvc.__file__).resolve().parent.parent / "docs" / "limits.rst"


class LimitsPage(SynchronousTestCase):
    """The page and the table of settings."""

    def setUp(self) -> None:
        if not PAGE.exists():
            raise SkipTest("an installed mailsvc without its documentation")
        self.text = PAGE.read_text("utf-8")

    def test_complete(self) -> None:
        """Every setting of [limits] and [gate] is told of."""
        wanted = [name for name, setting in SETTINGS.items() if setting.section in ("limits", "gate")]
        self.assertEqual([name for name in wanted if f"``{name}``" not in self.text], [])

    def test_defaults(self) -> None:
        """The table's second column is what the settings say."""
        for row in self.text.split("\n   * - ``")[1:]:
            names, _, rest = row.partition("\n     - ")
            told = rest.partition("\n")[0]
            found = [name for name in f"``{names}".split("``")[1::2] if name in SETTINGS]
            values = [SETTINGS[name].default for name in found]
            flat = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
            shown = [str(each).lower().removesuffix(".0") for each in flat]
            if len(set(flat)) == 1 and isinstance(flat[0], str):
                shown = [f'"{flat[0]}"']
            self.assertEqual(told, ", ".join(shown), names)
