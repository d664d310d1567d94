"""`mailsvc sendmail`, and ``mailsvc-sendmail``, which can be linked as /usr/sbin/sendmail: sendmail(8) for programs.

Cron, PHP and mail(1) hand their mail to a program of this name.  The arguments are `mailsvc.sending.arguments`'s, the
message `mailsvc.sending.letter`'s; here is the way that it takes.  With ``sendmail.via`` in the configuration it is
given to that relay, and what is not taken now goes into the database's queue; without, it goes into the database at
once, as the service would take it (`mailsvc.sending.handing`), and the service delivers it, now or when it is back.
Only who may not write the database, and mail for programs, needs the running service.

The hardest idea is what the caller sees.  A program has no eyes, so the exit status says everything (sysexits.h), with
one rule above all: 0 means that the mail is safe with somebody who has to deliver it or to report.  Nothing here is
setuid, and nothing calls a shell; what the caller may do decides what happens.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mailsvc.certkit.places import AUTHORITY_CERTIFICATE, AUTHORITY_FOLDER
from mailsvc.cli import descriptors
from mailsvc.cli.main import Common
from mailsvc.cli.probe import run
from mailsvc.cli.queue import queue
from mailsvc.cli.send import delivering, say
from mailsvc.cli.story import visible
from mailsvc.config import Configuration
from mailsvc.errors import ConfigurationRefused, MailsvcError, StartRefused, StorageFailure
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.relay.outcome import Kind, Outcome, Phase, refused_here
from mailsvc.relay.outgoing import Outgoing
from mailsvc.relay.url import RelayError
from mailsvc.sending.api import Handed, prepared, wish
from mailsvc.sending.arguments import Invocation, Mode, UsageMistake, invocation
from mailsvc.sending.delivering import Manner, Place
from mailsvc.sending.handing import Door
from mailsvc.sending.header import MessageError, addresses, one_line, recipients
from mailsvc.sending.letter import Letter, Limits, pieces_of, read_letter, until_dot
from mailsvc.sending.local import local_relays
from mailsvc.sending.stdio import serve
from mailsvc.sending.target import relay_of

CONFIGURATION = "/etc/mailsvc/mailsvc.toml"
"""Where the configuration is when neither -C nor MAILSVC_CONFIG says it."""

EX_OK, EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_NOUSER = 0, 64, 65, 66, 67
EX_UNAVAILABLE, EX_SOFTWARE, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 69, 70, 75, 77, 78
"""sysexits.h."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class _Raw(click.Command):
    """A command whose arguments nobody has looked at: click would take ``--`` away."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = tuple(args)
        return []


@click.command("sendmail", cls=_Raw, add_help_option=False)
@click.pass_obj
def sendmail(common: Common, /, arguments: tuple[str, ...]) -> int:
    """Take mail from programs, as sendmail(8) does; see docs/send.rst."""
    return face(arguments, common)


def main() -> int:
    """The console script: also under the names mailq and newaliases, as links call it."""
    name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    if name.startswith(("mailq", "newaliases")):
        arguments = ["-bp" if name.startswith("mailq") else "-bi", *arguments]
    return face(arguments, Common(None, os.environ.get("MAILSVC_CONFIG") or None))


def face(arguments: Sequence[str], common: Common) -> int:
    """Do what sendmail(8) would, and return its exit status.  Never raises what is foreseen."""
    try:
        asked = invocation(arguments)
        common = _found(common, asked)
        match asked.mode:
            case Mode.ALIASES:
                return EX_OK
            case Mode.QUEUE:
                queue.main(["list"], prog_name="mailsvc queue", obj=common, standalone_mode=False)
                sys.stdout.flush()  # here, where a failure is told by the status
                return EX_OK
            case Mode.SMTP:
                return _serve(common.in_force().configuration)
            case Mode.MESSAGE:
                return _message(asked, common)
    except UsageMistake as error:
        return _failed(EX_USAGE, str(error))
    except (AddressError, MessageError) as error:
        return _failed(EX_DATAERR, str(error))
    except (ConfigurationRefused, RelayError) as error:
        return _failed(EX_CONFIG, str(error))
    except StartRefused as error:
        return _failed(EX_NOPERM, str(error))
    except MailsvcError as error:
        return _failed(EX_TEMPFAIL, str(error))
    except OSError as error:
        descriptors.give_up(sys.stdout)
        return _failed(EX_TEMPFAIL, f"{error.filename or 'the system'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort):
        return _failed(EX_TEMPFAIL, "stopped; nothing was taken")


def _failed(status: int, sentences: str) -> int:
    for line in sentences.splitlines():
        descriptors.complain(f"sendmail: {visible(line)}")
    return status


def _found(common: Common, asked: Invocation) -> Common:
    """With the configuration: never a database in whatever folder the caller happens to be."""
    if asked.config is not None:
        return replace(common, file=asked.config)
    if common.file or common.database_option or os.environ.get("MAILSVC_DATABASE"):
        return common
    if not os.path.exists(CONFIGURATION):
        raise ConfigurationRefused(
            [f"there is no {CONFIGURATION}; give -C FILE, or name the configuration in MAILSVC_CONFIG"]
        )
    return replace(common, file=CONFIGURATION)


# -- a message ---------------------------------------------------------------------------------------------------------


def _message(asked: Invocation, common: Common) -> int:
    configuration = common.in_force().configuration
    domain = configuration.sendmail.domain or configuration.hostname
    named = _named(asked.to, domain)
    if not named and not asked.from_header:
        raise UsageMistake("name a recipient, or give -t")
    # What can be said before the message is read is said before.
    sender = _sender(asked, domain)
    wanted = wish(None if asked.notify is None else asked.notify.split(","))
    octets = pieces_of(sys.stdin.buffer)
    limits = Limits(configuration.smtp.message_size, configuration.smtp.header_size)
    letter = read_letter(octets if asked.ignore_dots else until_dot(octets), limits)
    try:
        if asked.from_header:
            written, bare = recipients(letter.head, domain)
            for address in written:
                named.setdefault(address, address in bare)
        if not named:
            raise MessageError("nobody is named in To, Cc and Bcc")
        if len(named) > configuration.smtp.recipients:
            raise MessageError(f"more than {configuration.smtp.recipients} recipients; send it in parts")
        everybody, door = tuple(named), Door(configuration, _user())
        name = _full_name(asked)
        letter, handed = prepared(letter, everybody, sender, configuration.hostname, name=name)
        outgoing = handed.outgoing(letter, wanted, asked.ret, asked.envid)
        return _handed_over(configuration, asked, common, door, named, letter, handed, outgoing)
    finally:
        letter.close()


def _named(texts: Iterable[str], domain: str) -> dict[Address, bool]:
    """Recipients, and whether each came without a domain.  An argument may be a list with commas."""
    found: dict[Address, bool] = {}
    for text in texts:
        for part in [text] if '"' in text else text.split(","):
            if part.strip():
                for address in addresses([part], domain):
                    found.setdefault(address, "@" not in part)
    return found


def _sender(asked: Invocation, domain: str) -> str:
    if asked.sender is None:
        return f"{_user()}@{domain}"
    text = asked.sender.strip()
    if text in ("", "<>"):
        return ""
    return str(addresses([text], domain)[0])


def _user() -> str:
    """Who runs this process, by the system's word and not by the environment's."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    return name if _NAME.match(name) else f"uid-{os.getuid()}"


def _full_name(asked: Invocation) -> str:
    if asked.full_name is not None:
        return one_line(asked.full_name, "the name of -F").strip()
    try:
        name = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    except KeyError:
        return ""
    return name if name.isprintable() else ""


def _handed_over(
    configuration: Configuration,
    asked: Invocation,
    common: Common,
    door: Door,
    named: Mapping[Address, bool],
    letter: Letter,
    handed: Handed,
    outgoing: Outgoing,
) -> int:
    """By the relay, into the database, to the service: in this order, each with what the one before has left."""
    outcomes: dict[Address, Outcome] = {}
    if via := configuration.sendmail.via:
        outcomes = _given(configuration, asked, Place(relay_of(via)), outgoing)
    left = [address for address in outgoing.recipients if _is_open(outcomes.get(address))]
    why: MailsvcError | None = None
    if left:
        try:
            # Who is nobody here is for the postmaster; a relay may know better, so it was asked first.
            whom = {address: door.local({address: named[address]})[0] for address in left}
            taken = door.take(letter, replace(outgoing, recipients=tuple(dict.fromkeys(whom.values()))))
            outcomes |= {address: taken[there] for address, there in whom.items()}
        except (StartRefused, StorageFailure) as error:
            why = error
    left = [address for address in outgoing.recipients if _is_open(outcomes.get(address))]
    if left:
        outcomes |= _by_service(configuration, asked, replace(outgoing, recipients=tuple(left)), outcomes, why)
    return _told(outcomes, asked, handed)


def _is_open(outcome: Outcome | None) -> bool:
    return outcome is None or outcome.kind is Kind.DEFERRED


def _given(configuration: Configuration, asked: Invocation, place: Place, outgoing: Outgoing) -> dict[Address, Outcome]:
    manner = Manner(configuration.hostname, listener=say if asked.verbose else None)

    async def work(reactor: Any) -> Mapping[Address, Outcome]:
        return await delivering(configuration, reactor).deliver(outgoing, place, manner)

    return dict(run(work))


def _by_service(
    configuration: Configuration,
    asked: Invocation,
    outgoing: Outgoing,
    before: Mapping[Address, Outcome],
    why: MailsvcError | None,
) -> dict[Address, Outcome]:
    """What this process cannot do, or may not, the running service can for addresses of its own."""
    cause = "" if why is None else f"; {why}"
    place = None if configuration.sendmail.via else _service(configuration)
    if place is None:
        ours = refused_here(str(why) if why is not None else "nobody takes it now", "4.3.0", Phase.CONNECT)
        return {address: before.get(address, ours) for address in outgoing.recipients}
    outcomes = _given(configuration, asked, place, outgoing)
    return {
        address: outcome if outcome.kind is Kind.DELIVERED else replace(outcome, text=f"{outcome.text}{cause}")
        for address, outcome in outcomes.items()
    }


def _service(configuration: Configuration) -> Place | None:
    authority = (Path(configuration.certs) / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE).absolute()
    ca = str(authority) if os.access(authority, os.R_OK) else None
    return next((Place(relay, found) for relay, found in local_relays(configuration, login=False, ca=ca)), None)


def _told(outcomes: Mapping[Address, Outcome], asked: Invocation, handed: Handed) -> int:
    """What went wrong on standard error, and the exit status of the worst of it."""
    for address, outcome in outcomes.items():
        if outcome.kind is not Kind.DELIVERED:
            descriptors.complain(f"sendmail: {visible(f'{address}: {outcome.text}')}")
        elif asked.verbose:
            descriptors.complain(f"{visible(f'{address}: {outcome.text}')}; Message-ID {visible(handed.message_id)}")
    # Who tries again would send it to those, too, who have it: what is for good goes before what is for now.
    failed = [outcome for outcome in outcomes.values() if outcome.kind is Kind.FAILED]
    if failed:
        unknown = all(outcome.enhanced.startswith("5.1.") for outcome in failed)
        return EX_NOUSER if unknown else EX_UNAVAILABLE
    return EX_TEMPFAIL if any(outcome.kind is Kind.DEFERRED for outcome in outcomes.values()) else EX_OK


# -- SMTP on standard input --------------------------------------------------------------------------------------------


def _serve(configuration: Configuration) -> int:
    door = Door(configuration, _user())
    # Whoever cannot write the database hears of it now and not after the message.
    door.local({parse_address(f"postmaster@{configuration.hostname}"): True})
    run(lambda reactor: serve(reactor, configuration, door))
    return EX_OK
