"""The arguments of sendmail(8), read as other programs write them: `invocation`.

Pure.  Programs have called /usr/sbin/sendmail for forty years, so what they say is understood, and what has no meaning
here is taken and ignored (``-oem``, ``-O ...``, ``-L``, ``-m`` ...).  What would mislead if it were ignored is refused
(``-bd``, ``-bt``).

The hardest idea is whose words these are.  A web form's address may come as an argument, and one that begins with a
hyphen must not become an option: the first word that is none, or ``--``, ends the options for good, whatever follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mailsvc.errors import MailsvcError


class UsageMistake(MailsvcError):
    """The arguments cannot be understood (EX_USAGE)."""


class Mode(Enum):
    """What ``-b`` asks for."""

    MESSAGE = "m"
    SMTP = "s"
    QUEUE = "p"
    ALIASES = "i"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was asked for.

    ``to``: addresses.  ``from_header``: -t.  ``ignore_dots``: -i.  ``sender``: -f, None when it was not said.
    ``full_name``: -F.  ``notify``, ``ret``, ``envid``: -N, -R, -V.  ``config``: -C.  ``verbose``: -v.
    """

    mode: Mode = Mode.MESSAGE
    to: tuple[str, ...] = ()
    from_header: bool = False
    ignore_dots: bool = False
    sender: str | None = None
    full_name: str | None = None
    notify: str | None = None
    ret: str | None = None
    envid: str | None = None
    config: str | None = None
    verbose: bool = False


_FLAGS = frozenset("tivnmGUIs")
_WITH_VALUE = frozenset("fFrBNRVOChLpX")
_ATTACHED = frozenset("boqAd")
"""What has its value right behind it, or none."""

_NAMES = {"f": "sender", "r": "sender", "F": "full_name", "N": "notify", "R": "ret", "V": "envid", "C": "config"}


def invocation(arguments: Sequence[str]) -> Invocation:
    """What the arguments (without the program's name) ask for.  Raises `UsageMistake`."""
    found: dict[str, str | bool | Mode] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in _FLAGS:
                _flag(found, letter)
                continue
            if letter in _WITH_VALUE:
                if not letters and not rest:
                    raise UsageMistake(f"-{letter} needs a value")
                _value(found, letter, letters or rest.pop(0))
            elif letter in _ATTACHED:
                _attached(found, letter, letters)
            else:
                raise UsageMistake(f"there is no option {word[:40]!a}; what follows -- is taken for an address")
            break
    mode = found.pop("mode", Mode.MESSAGE)
    assert isinstance(mode, Mode)
    return Invocation(mode, tuple(rest), **found)  # type: ignore[arg-type]  # each has the type of its field


def _flag(found: dict[str, str | bool | Mode], letter: str) -> None:
    match letter:
        case "t":
            found["from_header"] = True
        case "i":
            found["ignore_dots"] = True
        case "v":
            found["verbose"] = True
        case "I":
            found["mode"] = Mode.ALIASES


def _value(found: dict[str, str | bool | Mode], letter: str, value: str) -> None:
    if letter == "B" and value.upper() not in ("7BIT", "8BITMIME"):
        raise UsageMistake("-B is 7BIT or 8BITMIME")
    if letter in _NAMES:
        found[_NAMES[letter]] = value


def _attached(found: dict[str, str | bool | Mode], letter: str, value: str) -> None:
    if letter == "o" and value == "i":
        found["ignore_dots"] = True
    if letter != "b":
        return
    try:
        found["mode"] = Mode(value)
    except ValueError:
        raise UsageMistake(
            f"-b{value[:20]} is not done here: the service is started by twistd, and `mailsvc route explain` tells"
            " where an address leads"
        ) from None
