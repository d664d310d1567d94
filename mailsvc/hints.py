"""The commands that a newcomer wants to see after the first start: add a user, send to it, fetch from it.

Made from what is really in force (ports, database, certificate), so that each line can be pasted as it is. Whether
they are shown is left to the service.

The hardest idea is what "as it is" means: in another terminal nobody has put our virtual environment into PATH, and
paths that are right are longer than the command. So the `mailsvc` that belongs to this interpreter is named, paths are
told as seen from the folder where the service was started, and the first line says which folder that is.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mailsvc.certkit.layout import AUTHORITY_CERTIFICATE, AUTHORITY_FOLDER
from mailsvc.config import Configuration

_ANY = ("0.0.0.0", "::")


def first_steps(
    configuration: Configuration,
    database: str,
    ports: Mapping[str, tuple[str, int]],
    *,
    here: Path | None = None,
    command: str | None = None,
) -> Sequence[str]:
    """Lines for the log: three commands, as far as the listeners for them are open.

    `database` is its real path, `here` the folder that paths are told from (the current one), `command` how
    `mailsvc` is called there.
    """
    here = here or Path.cwd()
    user = f"alice@{'example.org' if configuration.hostname == 'localhost' else configuration.hostname}"
    # The command line takes the default from its own folder, as the service did.
    usual = Path(database) == here / Configuration().database
    option = "" if usual else f" --database {_seen_from(here, Path(database))}"
    lines = [
        f"try next, in another terminal, in {here}:",
        f"  {command or our_command(here)}{option} user add {user}",
    ]
    authority = here / configuration.certs / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE
    trust = f" --cacert {_seen_from(here, authority)}" if authority.exists() else ""
    curl = f"curl -sS --ssl-reqd{trust} --user {user}"
    if "submission" in ports:
        url, connect = _url("smtp", configuration.hostname, ports["submission"])
        lines.append(
            rf"  printf 'Subject: hello\r\n\r\nfirst light\r\n' | {curl}{connect} --mail-from {user} --mail-rcpt {user}"
            f" --upload-file - {url}"
        )
    if "pop3" in ports:
        url, connect = _url("pop3", configuration.hostname, ports["pop3"])
        lines.append(f"  {curl}{connect} {url}1")
    return lines


def our_command(here: Path, interpreter: str = sys.executable, search: str | None = None) -> str:
    """How the `mailsvc` of this interpreter is called: by its name when the shell would find it, else by its path.

    `search` stands for the environment's PATH.
    """
    beside = Path(interpreter).with_name("mailsvc")
    found = shutil.which("mailsvc", path=search)
    if beside.exists():
        same = found is not None and Path(found).resolve() == beside.resolve()
        return "mailsvc" if same else _seen_from(here, beside)
    return "mailsvc" if found is not None else f"{shlex.quote(interpreter)} -m mailsvc"


def _seen_from(here: Path, path: Path) -> str:
    """The path for a shell; shorter when it is below `here`."""
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) and here != Path("/") else path))


def _url(scheme: str, hostname: str, port: tuple[str, int]) -> tuple[str, str]:
    """A URL whose name the certificate covers, and the option that leads it to where we listen."""
    host, number = port
    if host in _ANY:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    target = f"[{host}]" if ":" in host else host
    connect = "" if hostname == "localhost" else f" --connect-to ::{target}:"
    return f"{scheme}://{hostname}:{number}/", connect
