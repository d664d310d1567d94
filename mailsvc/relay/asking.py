"""Asking a server whether it would take mail for somebody, without giving it any: MAIL, RCPT, RSET.

Sans-I/O (`mailsvc.relay.dialogue`), for ``mailsvc route test``.  Real mail is `mailsvc.relay.delivery`'s.

The hardest idea is what a "yes" means: that the server takes this recipient from this sender *now*.  It has not seen
the content, and what it thinks of that it says only at its end (RFC 5321 section 4.1.1.4).
"""

from __future__ import annotations

from contextlib import suppress

from mailsvc.mail.address import Address
from mailsvc.relay.dialogue import Broken, Session, Steps, ask
from mailsvc.relay.outcome import Outcome, Phase, by_protocol, by_reply, refused_here


def asking(session: Session, sender: Address | None, recipient: Address) -> Steps[Outcome]:
    """What the server says; `Kind.DELIVERED` when it would take mail.  Raises nothing that can be foreseen.

    ``sender``: None is the null sender.  The transaction is taken back (RSET), and what comes of that does not count.
    """
    host, timeouts = session.terms.host, session.terms.timeouts
    mail = f"MAIL FROM:<{'' if sender is None else sender}>"
    if not (recipient.is_ascii and (sender is None or sender.is_ascii)):
        if "SMTPUTF8" not in session.keywords:
            why = f"{host}: the server does not take addresses with characters beyond ASCII (SMTPUTF8)"
            return _on(session, refused_here(why, "5.6.7", host=host))
        mail += " SMTPUTF8"
    phase = Phase.MAIL
    try:
        reply = yield from ask(mail, phase, timeouts.mail)
        if 200 <= reply.code < 300:
            phase = Phase.RCPT
            reply = yield from ask(f"RCPT TO:<{recipient}>", phase, timeouts.rcpt)
    except Broken as broken:
        return _on(session, broken.outcome(phase, host))
    if 300 <= reply.code < 400:
        said = f"{host} answered {phase.value} with {reply}, which has no meaning there"
        return _on(session, by_protocol(said, phase, host))
    if reply.code != 421:
        with suppress(Broken):  # the end of the connection takes it back as well
            yield from ask("RSET", Phase.RESET, timeouts.reset)
    return _on(session, by_reply(reply, phase, host))


def _on(session: Session, outcome: Outcome) -> Outcome:
    return outcome.on(session.terms.host, session.level, session.terms.demanded, session.tls)
