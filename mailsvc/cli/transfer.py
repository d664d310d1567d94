"""`mailsvc mailbox import|export`: mail from another server comes in, and goes to another one.

Both can be stopped at any moment and started again; both say at the end exactly what they have done.  How it is done
is `mailsvc.mailbox`.

The hardest idea is the end.  Whether a run is complete, is stopped by Ctrl-C, or meets a full disk: the numbers are
told first, because they are true, and then what went wrong.  For that Ctrl-C must not come between a COMMIT and the
counting of it: the signal is only noted, and the run ends at the next place where all is counted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.directory.quota import in_words, parse_size
from mailsvc.errors import MailboxFull, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.mailbox import exporting, importing, maildir, uidlist
from mailsvc.mailbox.importing import Import, Limits
from mailsvc.mailbox.mbox import Quoting
from mailsvc.mailbox.reading import Maildir, Mbox, open_uidlist
from mailsvc.mailbox.writing import MaildirTarget, MboxTarget
from mailsvc.storage.accounts import AccountRow, account
from mailsvc.storage.opening import looking

_FORMS = {"mbox": Quoting.MBOXRD, "mboxo": Quoting.MBOXO, "mboxcl": Quoting.MBOXO, "mboxcl2": Quoting.MBOXCL2}


@click.command("import")
@click.argument("address")
@click.argument("source")
@click.option(
    "--format", "form", type=click.Choice(["maildir", *_FORMS]), help="What SOURCE is. [default: by what it looks like]"
)
@click.option("--folder", "folders", multiple=True, metavar="NAME", help="Also this folder of the Maildir; repeatable.")
@click.option("--uidlist", "list_file", metavar="FILE", help="Dovecot's list. [default: SOURCE/dovecot-uidlist]")
@click.option("--no-uidlist", is_flag=True, help="Give every message a new unique-id.")
@click.option(
    "--uidl-format",
    metavar="FORMAT",
    default=uidlist.DEFAULT_FORMAT,
    show_default=True,
    help="Dovecot's pop3_uidl_format (`doveconf pop3_uidl_format` says it).",
)
@click.option("--max-size", metavar="SIZE|none", help="Larger messages are skipped. [default: smtp.message_size]")
@click.option("--ignore-quota", is_flag=True, help="Take in what is more than the quota, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@JSON
@click.pass_obj
def import_mail(
    common: Common,
    address: str,
    source: str,
    form: str | None,
    folders: tuple[str, ...],
    list_file: str | None,
    no_uidlist: bool,
    uidl_format: str,
    max_size: str | None,
    ignore_quota: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take the mail of SOURCE, a Maildir or an mbox file, into the mailbox ADDRESS.

    Can be stopped and started again: nothing comes in twice, also not what was deleted meanwhile. With Dovecot's list
    of unique-ids, clients that leave mail on the server do not fetch it again. The service may run.
    """
    kind = form or ("maildir" if os.path.isdir(source) else "mbox")
    if kind != "maildir" and (folders or list_file):
        raise click.UsageError("--folder and --uidlist belong to a Maildir")
    if list_file and no_uidlist:
        raise click.UsageError("--uidlist and --no-uidlist exclude each other")
    understood = uidlist.UidlFormat.parse(uidl_format)
    boxes = [maildir.folder_name(name) for name in folders]
    limits = _limits(common, max_size)
    row = _account(common, address)
    listed = None
    if kind == "maildir" and not no_uidlist:
        listed = _uidlist(list_file or os.path.join(source, "dovecot-uidlist"), must_exist=list_file is not None)
    opened = Maildir(source, boxes, listed, understood) if kind == "maildir" else Mbox(source, _FORMS[kind])
    run = Import(common.database, row.id, row.address, limits=limits, heed_quota=not ignore_quota, clock=time.time)
    complete = False
    with _noticing_ctrl_c() as pressed:
        try:
            with opened, _bar("Importing", opened.total, pressed, countable=kind == "maildir") as progress:
                run.run(opened, dry=dry_run, progress=progress)
            complete = True
        except MailboxFull:
            raise MailboxFull(
                f"the quota of {row.address} is used up, and the import has stopped there; give it more"
                " (mailsvc user set --quota) or say --ignore-quota, and run the same command again"
            ) from None
        finally:
            facts = {"address": row.address, "source": source, "dry_run": dry_run, "complete": complete}
            if as_json:
                skipped = [{"name": name, "reason": reason} for name, reason in run.tally.skipped]
                numbers = asdict(run.tally) | {"skipped": skipped}
                click.echo(json.dumps(facts | numbers, indent=2))
            else:
                _tell_import(row.address, run.tally, dry_run, complete)
    if run.tally.skipped:
        click.get_current_context().exit(1)


def _uidlist(path: str, *, must_exist: bool) -> uidlist.UidList | None:
    try:
        found = open_uidlist(path)
    except FileNotFoundError:
        if must_exist:
            raise
        return None
    except MailsvcError as error:
        raise MailsvcError(f"{path}: {error}; --no-uidlist goes on without it") from None
    for problem in found.problems[:10]:
        click.echo(f"mailsvc: {path}: {problem}; Dovecot ignores it too", file=sys.stderr)
    return found


def _limits(common: Common, max_size: str | None) -> Limits:
    of_service = common.smtp
    if max_size is None:
        return Limits(of_service.message_size, of_service.header_size)
    if max_size.lower() == "none":
        return Limits(None, of_service.header_size)
    octets = parse_size(max_size)
    if not octets:
        raise MailsvcError(f"{max_size} is no size; write it like 50M, or none")
    return Limits(octets, of_service.header_size)


def _tell_import(address: str, tally: importing.Tally, dry_run: bool, complete: bool) -> None:
    for name, reason in tally.skipped:
        click.echo(f"skipped: {name}: {reason}")
    verb = "would be" if dry_run else "were" if tally.imported != 1 else "was"
    click.echo(f"{_messages(tally.imported)} ({in_words(tally.octets)}) {verb} imported into {address}.")
    if tally.uidls_kept:
        click.echo(f"{tally.uidls_kept:,} of these keep the unique-id that clients know.")
    if tally.uidls_changed:
        click.echo(f"{tally.uidls_changed:,} had one that is not allowed or is taken, and get a new one.")
    if tally.already_there:
        click.echo(f"{_messages(tally.already_there)} had been imported before.")
    if tally.skipped:
        were = "was" if len(tally.skipped) == 1 else "were"
        click.echo(f"{_messages(len(tally.skipped))} {were} skipped; see above.")
    if not complete and (tally.imported or tally.already_there):
        click.echo("The import is not complete; the same command goes on from there.")


@click.command("export")
@click.argument("address")
@click.argument("target")
@click.option("--format", "form", type=click.Choice(["maildir", "mbox"]), required=True, help="What TARGET becomes.")
@JSON
@click.pass_obj
def export_mail(common: Common, address: str, target: str, form: str, as_json: bool) -> None:
    """Write the mail of ADDRESS to TARGET, a Maildir (with a dovecot-uidlist, for Dovecot) or an mbox file.

    The mailbox stays as it is. Can be stopped and started again; files of others are never touched. The service may
    run.
    """
    row = _account(common, address)
    now = time.time()
    path = os.path.normpath(target)
    tally = exporting.Tally()
    complete = False
    opened: MaildirTarget | MboxTarget
    if form == "maildir":
        opened = MaildirTarget(path, row.address)
    else:
        opened = MboxTarget(path, row.address, now)
        now = opened.begun
    number = exporting.total(common.database, row.id, now)
    with _noticing_ctrl_c() as pressed:
        try:
            with _bar("Exporting", number, pressed, countable=True) as progress:
                exporting.export(common.database, row.id, opened, tally, now=now, progress=progress)
            complete = True
        finally:
            opened.close()
            if as_json:
                facts = {"address": row.address, "target": target, "complete": complete}
                click.echo(json.dumps(facts | asdict(tally), indent=2))
            else:
                _tell_export(row.address, target, tally, complete)


def _tell_export(address: str, target: str, tally: exporting.Tally, complete: bool) -> None:
    verb = "was" if tally.exported == 1 else "were"
    click.echo(f"{_messages(tally.exported)} ({in_words(tally.octets)}) of {address} {verb} exported to {target}.")
    if tally.already_there:
        click.echo(f"{_messages(tally.already_there)} had been exported before.")
    if tally.held:
        were = "was" if tally.held == 1 else "were"
        click.echo(f"{_messages(tally.held)} {were} left out: nobody is shown what is held until later.")
    if not complete and (tally.exported or tally.already_there):
        click.echo("The export is not complete; the same command goes on from there.")


def _account(common: Common, address: str) -> AccountRow:
    parsed = parse_address(address)
    with looking(common.database) as txn:
        row = account(txn, parsed.key)
    if row is None:
        raise NotFound(f"there is no account {parsed}; `mailsvc user list` shows them")
    return row


def _messages(number: int) -> str:
    return f"{number:,} message" if number == 1 else f"{number:,} messages"


@contextmanager
def _noticing_ctrl_c() -> Iterator[list[int]]:
    """Yields what is no longer empty once somebody has pressed Ctrl-C; the second one ends the run wherever it is."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note) or signal.SIG_DFL
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(what: str, total: int, pressed: list[int], *, countable: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal.

    Yields what moves it, and raises KeyboardInterrupt there when somebody has ``pressed`` Ctrl-C.
    """
    with _drawn(Console(stderr=True, markup=False, highlight=False), what, total, countable=countable) as draw:

        def move(position: int) -> None:
            if pressed:
                raise KeyboardInterrupt
            draw(position)

        yield move


@contextmanager
def _drawn(console: Console, what: str, total: int, *, countable: bool) -> Iterator[Callable[[int], None]]:
    if not console.is_terminal:
        yield lambda position: None
        return
    done = MofNCompleteColumn() if countable else TaskProgressColumn()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda position: progress.update(task, completed=position)
