"""The commands that a newcomer wants to see after the first start: add a user, send to it, fetch from it.

Pure text, made from what is really in force (ports, database, certificate), so that each line can be pasted as it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mailsvc.certkit.layout import AUTHORITY_CERTIFICATE, AUTHORITY_FOLDER
from mailsvc.config import Configuration

_ANY = ("0.0.0.0", "::")


def first_steps(configuration: Configuration, database: str, ports: Mapping[str, tuple[str, int]]) -> Sequence[str]:
    """Lines for the log: three commands, as far as the listeners for them are open."""
    user = f"alice@{'example.org' if configuration.hostname == 'localhost' else configuration.hostname}"
    lines = ["try next:", f"  mailsvc --database {shlex.quote(database)} user add {user}"]
    authority = Path(configuration.certs).absolute() / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE
    trust = f" --cacert {shlex.quote(str(authority))}" if authority.exists() else ""
    curl = f"curl --ssl-reqd{trust} --user {user}"
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


def _url(scheme: str, hostname: str, port: tuple[str, int]) -> tuple[str, str]:
    """A URL whose name the certificate covers, and the option that leads it to where we listen."""
    host, number = port
    if host in _ANY:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    target = f"[{host}]" if ":" in host else host
    connect = "" if hostname == "localhost" else f" --connect-to ::{target}:"
    return f"{scheme}://{hostname}:{number}/", connect
