"""Each program's way to send one message, and to fetch all messages of an account.

A sender takes the message with CRLF line ends and gives back what the program said; a fetcher gives back the
messages as bytes with CRLF line ends.  Programs that write files or feed other programs turn CRLF into LF, which is
how Unix keeps text; that is undone here, and nothing else is: what a program adds by itself is turned off in its
configuration.  Every program checks our certificate against our CA and the name ``localhost``.
"""

from __future__ import annotations

import poplib
import smtplib
import ssl
from pathlib import Path

from tests.interop.programs import Done, InteropCase, login_name, program, run, run_on_terminal
from tests.running import crlf


def swaks(case: InteropCase, mail: bytes, listener: str, *options: str) -> Done:
    """Send with swaks, by STARTTLS, or TLS from the start on port "submissions"."""
    # swaks ends what it sends with a line end of its own.
    data = case.write("swaks.eml", mail.removesuffix(b"\r\n"))
    tls = "--tls-on-connect" if listener == "submissions" else "--tls"
    return run(
        [
            program("swaks"),
            *("--server", f"localhost:{case.port(listener)}", tls, "--tls-verify", "--tls-ca-path", case.service.ca),
            *("--helo", "client.example.org", "--from", case.user.address, "--data", f"@{data}", "--timeout", "120"),
            *(options if "--to" in options else ("--to", case.user.address, *options)),
        ],
        home=case.home,
    )


def with_login(case: InteropCase, mechanism: str = "PLAIN", password: str | None = None) -> tuple[str, ...]:
    """The options of swaks to log in."""
    secret = case.user.password if password is None else password
    return ("--auth", mechanism, "--auth-user", case.user.address, "--auth-password", secret)


def curl(case: InteropCase, *arguments: str) -> Done:
    """Run curl with TLS demanded and checked, and a login; its configuration keeps the password off the argv."""
    config = case.write(
        "curlrc", f'user = "{case.user.address}:{case.user.password}"\ncacert = "{case.service.ca}"\nssl-reqd\n'
    )
    return run([program("curl"), "--silent", "--show-error", "--config", str(config), *arguments], home=case.home)


def curl_sends(case: InteropCase, mail: bytes, url: str) -> Done:
    """Send with curl."""
    sender = case.user.address
    data = case.write("curl.eml", mail)
    return curl(case, "--mail-from", sender, "--mail-rcpt", sender, "--upload-file", str(data), url)


def msmtp(case: InteropCase, mail: bytes, listener: str, *, mechanism: str = "plain", ca: str | None = None) -> Done:
    """Send with msmtp, which takes LF and sends CRLF."""
    rc = case.write(
        "msmtprc",
        f"""defaults
tls on
tls_trust_file {ca or case.service.ca}
tls_starttls {"off" if listener == "submissions" else "on"}
auth {mechanism}
account default
host localhost
port {case.port(listener)}
domain client.example.org
from {case.user.address}
user {case.user.address}
password "{case.user.password}"
""",
    )
    return run(
        [program("msmtp"), "-C", str(rc), "--timeout=120", case.user.address],
        home=case.home,
        stdin=mail.replace(b"\r\n", b"\n"),
    )


def smtplib_session(case: InteropCase, listener: str) -> smtplib.SMTP:
    """A session of Python's smtplib, inside TLS, not logged in yet."""
    context = ssl.create_default_context(cafile=case.service.ca)
    port = case.port(listener)
    if listener == "submissions":
        return smtplib.SMTP_SSL("localhost", port, "client.example.org", timeout=120, context=context)
    session = smtplib.SMTP("localhost", port, "client.example.org", timeout=120)
    session.starttls(context=context)
    return session


def poplib_session(case: InteropCase, listener: str, *, utf8: bool = False) -> poplib.POP3:
    """A session of Python's poplib, inside TLS, logged in; ``utf8``: it says UTF8 first."""
    context = ssl.create_default_context(cafile=case.service.ca)
    session: poplib.POP3
    if listener == "pop3s":
        session = poplib.POP3_SSL("localhost", case.port(listener), context=context, timeout=120)
    else:
        session = poplib.POP3("localhost", case.port(listener), timeout=120)
        session.stls(context)
    if utf8:
        session.utf8()
    session.user(case.user.address)
    session.pass_(case.user.password)
    return session


def poplib_fetches(case: InteropCase, listener: str = "pop3s") -> list[bytes]:
    """All messages, by poplib; they stay on the server."""
    session = poplib_session(case, listener)
    count, _ = session.stat()
    messages = [b"".join(line + b"\r\n" for line in session.retr(number)[1]) for number in range(1, count + 1)]
    session.quit()
    return messages


def mpop(case: InteropCase, listener: str, *, keep: bool = True, ca: str | None = None, auth: str = "user") -> Done:
    """Fetch with mpop into the maildir "mpop"."""
    for folder in ("mpop/cur", "mpop/new", "mpop/tmp"):
        (case.home / folder).mkdir(parents=True, exist_ok=True)
    rc = case.write(
        "mpoprc",
        f"""account default
host localhost
port {case.port(listener)}
tls on
tls_trust_file {ca or case.service.ca}
tls_starttls {"off" if listener == "pop3s" else "on"}
auth {auth}
user {case.user.address}
password "{case.user.password}"
keep {"on" if keep else "off"}
received_header off
uidls_file {case.home}/mpop.uidls
delivery maildir {case.home}/mpop
""",
    )
    return run([program("mpop"), "-C", str(rc), "--timeout=120"], home=case.home)


def fetchmail(case: InteropCase, listener: str, *, keep: bool = True, ca: str | None = None, options: str = "") -> Done:
    """Fetch with fetchmail into files "fetchmail.*"; status 1 is "no new mail".

    ``options`` are further ones of its user: "fetchall", "fastuidl 1".
    """
    # sslproto '' would be clear text; "ssl" is TLS from the start, and without it fetchmail uses STLS when a
    # protocol is named.  "invisible" leaves out its own Received line.
    rc = case.write(
        "fetchmailrc",
        f"""set no bouncemail
set no syslog
set invisible
set idfile "{case.home}/fetchmail.ids"
set pidfile "{case.home}/fetchmail.pid"
poll localhost service {case.port(listener)} protocol POP3 uidl auth password timeout 120
  user "{case.user.address}" there password "{case.user.password}" is "{login_name()}" here
  {"keep" if keep else "nokeep"} no rewrite pass8bits no mimedecode {options}
  {"ssl" if listener == "pop3s" else ""} sslproto "TLS1.2+" sslcertck sslcertfile "{ca or case.service.ca}"
  mda "cat > {case.home}/fetchmail.$$"
""",
    )
    return run([program("fetchmail"), "-f", str(rc), "-d0", "-v"], home=case.home)


def getmail(case: InteropCase, *, keep: bool = True, ca: str | None = None) -> Done:
    """Fetch with getmail6 into files "getmail.*"."""
    (case.home / "getmail").mkdir(exist_ok=True)
    case.write(
        "getmail/rc",
        f"""[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {case.port("pop3s")}
username = {case.user.address}
password = {case.user.password}
ca_certs = {ca or case.service.ca}
timeout = 120

[destination]
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat > {case.home}/getmail.$$")
allow_root_commands = true

[options]
read_all = false
delete = {"false" if keep else "true"}
delivered_to = false
received = false
verbose = 2
""",
    )
    return run([program("getmail"), "--getmaildir", str(case.home / "getmail"), "--rcfile", "rc"], home=case.home)


def mutt_rc(case: InteropCase, listener: str = "pop3", *, keep: bool = True, auth: str = "user") -> Path:
    """mutt's configuration: STARTTLS for sending, STLS or TLS for fetching, into the maildir "mutt"."""
    for folder in ("mutt/cur", "mutt/new", "mutt/tmp"):
        (case.home / folder).mkdir(parents=True, exist_ok=True)
    name = case.user.address.replace("@", "%40")
    return case.write(
        "muttrc",
        f"""set ssl_starttls=yes ssl_force_tls=yes ssl_verify_host=yes ssl_verify_dates=yes
set certificate_file="{case.service.ca}"
set smtp_url="smtp://{name}@localhost:{case.port("submission")}/" smtp_pass="{case.user.password}"
set smtp_authenticators="plain"
set pop_host="{listener.replace("pop3", "pop")}://{name}@localhost:{case.port(listener)}"
set pop_pass="{case.user.password}"
set pop_authenticators="{auth}" pop_delete={"no" if keep else "yes"} pop_last=no pop_reconnect=no
set from="{case.user.address}" use_from=yes use_envelope_from=yes envelope_from_address="{case.user.address}"
set hostname="client.example.org" user_agent=no copy=no
set mbox_type=Maildir folder="{case.home}/mutt" spoolfile="{case.home}/mutt" tmpdir="{case.home}"
set quit=yes move=no delete=no confirmappend=no wait_key=no beep=no
""",
    )


def mutt_sends(case: InteropCase, text: bytes, subject: str) -> Done:
    """Send a text of ASCII lines (with LF) with mutt."""
    command = [program("mutt"), "-F", str(mutt_rc(case)), "-s", subject, case.user.address]
    return run(command, home=case.home, stdin=text)


def mutt_fetches(case: InteropCase, listener: str = "pop3", *, keep: bool = True, auth: str = "user") -> Done:
    """Fetch with mutt, on a terminal, into the maildir "mutt"."""
    keys = 'push "<fetch-mail><sync-mailbox><quit>"'
    rc = mutt_rc(case, listener, keep=keep, auth=auth)
    return run_on_terminal([program("mutt"), "-F", str(rc), "-e", keys], home=case.home)


def delivered(case: InteropCase, pattern: str) -> list[bytes]:
    """What a fetcher wrote, with CRLF line ends again, in no particular order."""
    return [crlf(path.read_bytes()) for path in case.home.glob(pattern)]
