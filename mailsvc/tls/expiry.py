"""When a certificate's end is worth a word: 21, 7, 3 and 1 days before, and when it is there.

Pure.  Somebody who starts the service with five days left is told once, that it is less than seven, and not twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from mailsvc.certkit.inspect import is_self_signed, when
from mailsvc.tls.credential import Credential

DAYS = (1, 3, 7, 21)
OVER = 0
"""What `due` says of a certificate that has ended."""


def ends(credential: Credential) -> datetime:
    """When the first certificate of the chain ends that clients look at: not a root, they have their own copy of it."""
    first, *rest = credential.chain
    return min(each.not_valid_after_utc for each in (first, *(one for one in rest if not is_self_signed(one))))


def due(credential: Credential, now: datetime) -> int | None:
    """The warning that is due: the least of `DAYS` that is not less than what is left, `OVER`, or None.

    ``now`` is aware of its time zone.
    """
    left = ends(credential) - now
    if left <= timedelta(0):
        return OVER
    return next((days for days in DAYS if left <= timedelta(days=days)), None)


def sentence(credential: Credential, days: int) -> str:
    """The warning ``days`` (from `due`) in words."""
    end = when(ends(credential))
    if days == OVER:
        return f"it ended on {end}: clients that check certificates refuse this service now; renew it"
    return f"it ends within {days} day{'s' * (days != 1)}, on {end}; renew it"
