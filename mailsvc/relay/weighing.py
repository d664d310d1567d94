"""What the answers of several hosts mean together for one recipient.  Pure.

The hardest idea: a permanent failure needs everybody's consent.  "This host cannot do it" from one host (it does not
take UTF-8 addresses, say) is not the destination's decision while another host could only not be reached; the mail
waits for that one.  A decision about the recipient itself ends the attempt, so it is always the last that was heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailsvc.relay.outcome import Kind, Outcome, Phase

_RANK = {Phase.CONNECT: 0, Phase.GREETING: 1, Phase.HELLO: 1, Phase.TLS: 2, Phase.AUTH: 2}
"""Who came further knows more; everything behind AUTH is about the mail."""


def weighed(heard: Sequence[Outcome]) -> Outcome:
    """One outcome from those of the hosts in the order in which they were tried; at least one.

    The one that decides, or else the one that came furthest; its text tells of the others, too.
    """
    last = heard[-1]
    if not last.elsewhere:
        return last
    counting = [each for each in heard if each.kind is Kind.DEFERRED] or list(heard)
    chosen = max(counting, key=lambda each: _RANK.get(each.phase, 3))
    others = [each.text for each in heard if each is not chosen]
    texts = list(dict.fromkeys((chosen.text, *others)))
    return chosen if len(texts) == 1 else replace(chosen, text="; ".join(texts))
