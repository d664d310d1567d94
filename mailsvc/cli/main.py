"""The `mailsvc` command: the options common to all its commands, and one way to end for all of them.

Each group of commands is a module of this package that exports a click command of its own name; it is
loaded when it is used, so that `mailsvc user add` does not wait for what `mailsvc certs` needs.

The hardest idea is the exit: 0 is yes, 1 is "the answer is no" and every foreseen failure, 2 is wrong
usage, and whatever goes wrong reaches the user as a sentence. So click runs without its own ending, and
`main` has the only one.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import click

from mailsvc import __version__
from mailsvc.cli import descriptors
from mailsvc.config import Configuration, InForce, Surroundings, load
from mailsvc.config.settings import Pop3, Smtp
from mailsvc.errors import MailsvcError
from mailsvc.surroundings import surroundings

COMMANDS = {
    "alias": "Addresses that lead elsewhere.",
    "backup": "Domains of other servers that this one is a backup MX for.",
    "certs": "Make, check and show certificates.",
    "config": "Check and describe the configuration.",
    "demo": "See mail taken in and fetched again, on temporary ports.",
    "doctor": "See what is wrong with this service, and how to mend it.",
    "domain": "The domains for which mail is taken.",
    "mailbox": "What lies in a mailbox.",
    "probe": "See what a server's TLS is worth, another's or our own.",
    "queue": "Mail that waits to go out.",
    "relay-client": "Machines that hand in mail without a login.",
    "route": "Where mail goes.",
    "send": "Send a message now, and see what becomes of it.",
    "sendmail": "Take mail from programs, as sendmail(8) does.",
    "tls": "What TLS others show, and what they must.",
    "user": "The people who have a mailbox.",
    "why": "What happened to a message, an address, a client.",
}


@dataclass(frozen=True, slots=True)
class Common:
    """The options that stand before the command, as `ctx.obj`."""

    database_option: str | None = None
    file: str | None = None

    def in_force(self) -> InForce:
        """The configuration as the service would see it; raises ConfigurationRefused."""
        return self._load(surroundings())

    @property
    def database(self) -> str:
        """The database to work on: the option, else the environment, the file, the default.

        Raises ConfigurationRefused.
        """
        return self._nameless().configuration.database

    @property
    def scram(self) -> bool:
        """Whether SCRAM verifiers are kept; raises ConfigurationRefused."""
        return self._nameless().configuration.accounts.scram

    @property
    def memory_days(self) -> int:
        """How long the TLS that others have shown is remembered; raises ConfigurationRefused."""
        return self._nameless().configuration.downgrade.memory_days

    @property
    def configuration(self) -> Configuration:
        """The settings, for what has no use for this machine's own name; raises ConfigurationRefused."""
        return self._nameless().configuration

    @property
    def smtp(self) -> Smtp:
        """The limits of what is taken in; raises ConfigurationRefused."""
        return self._nameless().configuration.smtp

    @property
    def pop3(self) -> Pop3:
        """How long mail is kept, among others; raises ConfigurationRefused."""
        return self._nameless().configuration.pop3

    def _nameless(self) -> InForce:
        return self._load(Surroundings(fqdn=lambda: "localhost", privileged=False))  # nobody needs the resolver here

    def _load(self, machine: Surroundings) -> InForce:
        return load(self.file, {"database": self.database_option}, machine, os.environ)


class _Commands(click.Group):
    """Commands by name, each loaded from its module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            if near:  # click looks for likely ones among the commands that are loaded
                ctx.fail(f"No such command '{cmd_name}'. Did you mean '{near[0]}'?")
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"mailsvc.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    "mailsvc",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The service itself is started by `twistd -n --pidfile= mailsvc --certs certs/`.",
)
@click.option("--database", metavar="FILE|URL", help="Database to work on. [env: MAILSVC_DATABASE]")
@click.option("--config", "file", metavar="FILE", envvar="MAILSVC_CONFIG", help="Configuration. [env: MAILSVC_CONFIG]")
@click.version_option(__version__, prog_name="mailsvc", message="%(prog)s %(version)s")
@click.pass_context
def mailsvc(ctx: click.Context, database: str | None, file: str | None) -> None:
    """Look after a mail service: its users, domains, certificates and configuration.

    Changes are in force at once, also in a service that is running.
    """
    ctx.obj = Common(database, file or None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 0, 1 (the answer is no, or it failed), 2 (wrong usage)."""
    try:
        status = mailsvc.main(
            None if arguments is None else list(arguments), prog_name="mailsvc", standalone_mode=False
        )
        sys.stdout.flush()
    except click.ClickException as error:
        try:
            error.show()
        except OSError:
            descriptors.give_up(sys.stderr)
        return error.exit_code
    except click.Abort:
        return _failed("stopped; nothing more was done")
    except MailsvcError as error:
        return _failed(str(error) or type(error).__name__)
    except BrokenPipeError:
        # the reader has seen enough (`| head`)
        descriptors.give_up(sys.stdout)
        return 1
    except OSError as error:
        descriptors.give_up(sys.stdout)
        what = f"{error.filename}: " if error.filename else ""
        return _failed(f"{what}{error.strerror or error}")
    except Exception as error:
        if os.environ.get("MAILSVC_TRACEBACK"):
            traceback.print_exc()
        return _failed(
            f"this is a defect of mailsvc, please report it: {type(error).__name__}"
            " (the environment variable MAILSVC_TRACEBACK=1 shows where)"
        )
    return status if isinstance(status, int) else 0


def _failed(sentences: str, stream: TextIO | None = None) -> int:
    for line in sentences.splitlines():
        descriptors.complain(f"mailsvc: {line}", stream)
    return 1


if __name__ == "__main__":
    sys.exit(main())
