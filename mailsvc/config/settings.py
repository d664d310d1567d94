"""Every setting there is: one field of a dataclass each, the single source for its default, check and help.

`Configuration` is what the rest of the service reads: frozen, whole, checked. The same as a table, by name, is
`table.py`, which derives it from here (a field's metadata holds kind and help). How several sources become one
configuration is `layers.py`; what a single value may be is `kinds.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mailsvc.config.kinds import (
    Choice,
    DatabaseName,
    Endpoints,
    Folder,
    Hostname,
    Kind,
    Networks,
    OptionalFile,
    OptionalPath,
    OptionalPlace,
    Seconds,
    Switch,
    Whole,
    Words,
    Zones,
)

_MEBI = 1024 * 1024
_DAY = 86400


def _setting(default: object, kind: Kind, help: str, **more: object) -> Any:
    """A field that is a setting.

    `advised=(least, source)`: less is allowed, with a remark; `root`: the default of one who is root.
    """
    return field(default=default, metadata={"kind": kind, "help": help, **more})


def _listener(port: int, root_port: int, what: str) -> Any:
    return _setting(
        (f"tcp:{port}:interface=127.0.0.1",),
        Endpoints(),
        f'Where {what} is served: Twisted endpoint strings; "" turns it off.',
        root=(f"tcp:{root_port}",),
        option=True,
    )


@dataclass(frozen=True, slots=True)
class Listen:
    """Endpoint strings of each kind of listener; an empty tuple is "off"."""

    smtp: tuple[str, ...] = _listener(2525, 25, "mail from other servers (SMTP with STARTTLS)")
    submission: tuple[str, ...] = _listener(2587, 587, "mail from users (SMTP with STARTTLS and login)")
    submissions: tuple[str, ...] = _listener(2465, 465, "mail from users (SMTP inside TLS, with login)")
    lmtp: tuple[str, ...] = _setting(
        (),
        Endpoints(),
        "Where mail from a mail server in front of this one is taken (LMTP), for example"
        ' "unix:/run/mailsvc/lmtp.sock:mode=660"; "" turns it off.',
        root=(),
        option=True,
    )
    pop3: tuple[str, ...] = _listener(2110, 110, "fetching mail (POP3 with STLS)")
    pop3s: tuple[str, ...] = _listener(2995, 995, "fetching mail (POP3 inside TLS)")
    metrics: tuple[str, ...] = _setting(
        (),
        Endpoints(),
        "Where numbers for Prometheus are served (HTTP, /metrics): loopback or a UNIX socket, for example"
        ' "tcp:9464:interface=127.0.0.1"; "" turns it off.',
        root=(),
        option=True,
    )
    recipients: tuple[str, ...] = _setting(
        (),
        Endpoints(),
        "Where our backup MX servers fetch who gets mail here (HTTPS, client certificates; `mailsvc backup offer`),"
        ' for example "tcp:8443"; "" turns it off.',
        root=(),
        option=True,
    )

    def __post_init__(self) -> None:
        """Raises TypeError for a string in the place of a tuple: each of its characters would be an endpoint."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), str):
                raise TypeError(f"Listen: {each.name} is a tuple of endpoints; write ({value!r},)")


@dataclass(frozen=True, slots=True)
class Smtp:
    """Limits of one SMTP session. Sizes are in octets."""

    message_size: int = _setting(
        64 * _MEBI, Whole("octets", 65536, 2**31 - 1), "Largest message that is taken (SIZE, RFC 1870)."
    )
    header_size: int = _setting(2 * _MEBI, Whole("octets", 1024, 2**31 - 1), "Largest header block of a message.")
    recipients: int = _setting(
        1000,
        Whole("recipients", 1, 100000),
        "Recipients of one message; more get a temporary refusal.",
        advised=(100, "RFC 5321 section 4.5.3.1.8"),
    )
    received_headers: int = _setting(
        100,
        Whole("header fields", 1, 10000),
        "More Received header fields than this are taken for a mail loop.",
        advised=(100, "RFC 5321 section 6.3"),
    )
    header_fields: int = _setting(50000, Whole("header fields", 10, 1000000), "Header fields of one message.")
    messages: int = _setting(
        1000, Whole("messages", 1, 1000000), "Messages in one session before it is ended with 421."
    )
    commands: int = _setting(50000, Whole("commands", 100, 100000000), "Commands in one session before it is ended.")
    session_seconds: float = _setting(
        7200.0, Seconds(1, 7 * _DAY), "How long one session may last, whatever it does; then it is ended with 421."
    )
    hold_seconds: int = _setting(
        30 * _DAY,
        Whole("seconds", 0, 366 * _DAY),
        "How far ahead a user may say when a message is to appear (FUTURERELEASE, RFC 4865); 0 is never.",
    )
    refuse_long_lines: bool = _setting(
        False, Switch(), "Whether a message with a line of more than 998 octets is refused."
    )
    memory_per_message: int = _setting(
        262144, Whole("octets", 4096, 1024 * _MEBI), "What is over this goes to a temporary file meanwhile."
    )
    errors: int = _setting(20, Whole("errors", 1, 10000), "Errors in one session before it is ended with 421.")
    command_line: int = _setting(2048, Whole("octets", 512, 65536), "Longest command line.")
    auth_line: int = _setting(
        12288,
        Whole("octets", 1024, 65536),
        "Longest line of a login dialogue.",
        advised=(12288, "RFC 4954 section 4"),
    )


@dataclass(frozen=True, slots=True)
class Pop3:
    """POP3: limits of a session, and what the server says of itself."""

    errors: int = _setting(20, Whole("errors", 1, 10000), "Errors in one session before it is ended.")
    commands: int = _setting(
        1_000_000, Whole("commands", 1000, 10**9), "Commands in one session, after its login, before it is ended."
    )
    early_commands: int = _setting(100, Whole("commands", 10, 100000), "The same before login.")
    command_line: int = _setting(2048, Whole("octets", 255, 65536), "The longest command, with its line end.")
    auth_line: int = _setting(
        12288,
        Whole("octets", 1024, 65536),
        "The longest response inside AUTH, with its line end.",
        advised=(12288, "RFC 4954 section 4"),
    )
    sessions: int = _setting(10, Whole("sessions", 1, 1000), "Sessions of one account at a time.")
    login_delay: int = _setting(
        0, Whole("seconds", 0, 86400), "Seconds between two logins of an account (LOGIN-DELAY); 0 is no delay."
    )
    greeting: str = _setting("", Words(), "The text of the first line; empty for the host's name.")
    implementation: str = _setting("mailsvc", Words(), "What CAPA says this server is; empty for nothing.")
    device_days: int = _setting(
        30,
        Whole("days", 1, 3650),
        "How long a device counts after its last login: in accounts that delete by device it holds mail back.",
    )
    expire_days: int = _setting(
        0, Whole("days", 0, 36500), "Mail that is older is removed (CAPA says EXPIRE); 0 is never."
    )
    undelete_days: int = _setting(
        7, Whole("days", 0, 3650), "How long deleted mail can be brought back; 0 is not at all."
    )
    language: str = _setting(
        "en", Choice(("en", "de", "fr", "es", "zh")), "The language that a client gets with LANG *."
    )
    refuse_utf8: bool = _setting(
        False, Switch(), "Whether a message with UTF-8 in its header is refused to a client that has not said UTF8."
    )
    replace_nuls: bool = _setting(
        False, Switch(), "Whether a NUL in a message is sent as 0x80 (in a header as ?), for programs that stop there."
    )
    end_of_header: bool = _setting(
        False, Switch(), "Whether a message without an empty line behind its header is sent with one."
    )
    idle_seconds: float = _setting(
        600.0,
        Seconds(0.1, _DAY),
        "Silence after which a session is ended and its deletions are dropped.",
        advised=(600, "RFC 1939 section 3"),
    )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds."""

    command: float = _setting(
        300.0,
        Seconds(0.1, _DAY),
        "How long an SMTP client may take for its next command.",
        advised=(300, "RFC 5321 section 4.5.3.2.7"),
    )
    body_progress: float = _setting(180.0, Seconds(0.1, _DAY), "How long a message may stand still while it is sent.")
    handshake: float = _setting(30.0, Seconds(0.1, 3600), "How long a TLS handshake may take.")
    closing: float = _setting(
        10.0,
        Seconds(0.1, 3600),
        "How long a peer may take to close after we did; then the connection is cut.",
    )
    shutdown: float = _setting(10.0, Seconds(0.1, 3600), "How long a stopping service waits for what is under way.")


@dataclass(frozen=True, slots=True)
class Accounts:
    """Logins."""

    remember_login: float = _setting(
        300.0, Seconds(0, _DAY), "How long a password that was right need not be hashed again; 0 is never."
    )
    hash_threads: int = _setting(2, Whole("threads", 1, 64), "Passwords that are hashed at the same time.")
    scram: bool = _setting(
        True,
        Switch(),
        "Whether SCRAM is offered, and a verifier for it kept beside each password's hash.",
    )
    certificate_cas: Path | None = _setting(
        None,
        OptionalPath(),
        "CAs that may vouch for a mail address: their client certificates log in as the account of that address.",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the whole service."""

    connections: int = _setting(
        2000, Whole("connections", 1, 1000000), "Open connections, all listeners; one network gets half at most."
    )
    per_address: int = _setting(
        50, Whole("connections", 1, 1000000), "Open connections of one address: of an IPv4 address, or an IPv6 /64."
    )
    per_network: int = _setting(
        200, Whole("connections", 1, 1000000), "Open connections of one network: of an IPv4 /24, or an IPv6 /48."
    )
    trusted: tuple[str, ...] = _setting(
        ("127.0.0.0/8", "::1/128"),
        Networks(),
        "Clients that have no limit of their own address and network, and that [gate] does not look at.",
    )
    unknown_recipients: int = _setting(
        10,
        Whole("recipients", 1, 100000),
        "Recipients that do not exist, in one session with another server, before it is ended with 421.",
    )
    junk_commands: int = _setting(
        100,
        Whole("commands", 10, 1000000),
        "Commands that bring no mail (NOOP, RSET, HELP ...) of another server, before its session is ended with 421.",
    )
    body_memory: int = _setting(
        64 * _MEBI,
        Whole("octets", 65536, 2**40),
        "Memory for all messages on their way in; past it each goes to a temporary file at once.",
    )
    body_total: int = _setting(
        4096 * _MEBI,
        Whole("octets", _MEBI, 2**46),
        "Memory and temporary files for all messages on their way in; past it a message is put off with 452.",
    )


_ACTIONS = Choice(("off", "note", "refuse"))


@dataclass(frozen=True, slots=True)
class Gate:
    """How other servers are looked at that bring mail; not users, and not [limits] trusted."""

    early_talkers: bool = _setting(
        True, Switch(), "Whether a client that speaks before the greeting is refused with 554."
    )
    greeting_delay: float = _setting(0.0, Seconds(0, 60), "How long a client has to wait for the greeting.")
    helo_syntax: str = _setting("off", _ACTIONS, "What follows when a client's EHLO is no full host name.")
    helo_own_name: str = _setting("off", _ACTIONS, "What follows when a client says our own name in EHLO.")
    helo_literal: str = _setting(
        "off", _ACTIONS, "What follows when the address in a client's EHLO is not the one that it comes from."
    )
    blocklists: tuple[str, ...] = _setting(
        (), Zones(), "DNS blocklists that are asked about a client, ZONE or ZONE*WEIGHT each."
    )
    blocklist_threshold: int = _setting(
        1, Whole("points", 1, 10000), "The sum of the weights from which on a client counts as listed."
    )
    blocklist_action: str = _setting(
        "refuse", Choice(("note", "refuse")), "What follows for a client that counts as listed."
    )
    blocklist_seconds: float = _setting(
        5.0, Seconds(0.1, 60), "How long a blocklist may take to answer; a late answer says nothing."
    )


@dataclass(frozen=True, slots=True)
class Downgrade:
    """What is remembered of the TLS that others have shown (`mailsvc tls policy`)."""

    memory_days: int = _setting(
        3,
        Whole("days", 0, 365),
        "How long a host or domain that has shown TLS is put off when it shows less; 0 is not at all.",
    )
    inbound: bool = _setting(True, Switch(), "Whether that holds for servers that bring mail, too.")


@dataclass(frozen=True, slots=True)
class Events:
    """What `mailsvc why` can tell of."""

    keep_days: int = _setting(30, Whole("days", 1, 36500), "Events that are older are removed.")
    keep_rows: int = _setting(
        500_000, Whole("events", 1000, 10**9), "The most events that are kept, the newest; some 400 octets each."
    )
    buffer: int = _setting(
        10_000, Whole("events", 100, 10**6), "Events that may wait to be written; more are only counted."
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What the log holds."""

    sessions: bool = _setting(
        False,
        Switch(),
        "Whether each connection, its TLS and its end get lines in the log; logins and mail do, with the TLS.",
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """Programs that get mail (`mailsvc alias add ADDRESS --pipe COMMAND`)."""

    pipes: bool = _setting(
        False, Switch(), "Whether mail is given to programs; they run as the user that mailsvc runs as."
    )
    pipe_seconds: float = _setting(60.0, Seconds(0.1, 3600), "How long a program may take for one message.")
    pipe_output: int = _setting(4096, Whole("octets", 0, 1024 * 1024), "How much is kept of what a program writes.")
    pipes_at_once: int = _setting(20, Whole("programs", 1, 1000), "Programs that run at the same time.")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of this service, beside the folder of them."""

    key_file: str = _setting(
        "",
        OptionalFile(),
        "File with the key that opens private keys in the database (64 hexadecimal digits); not in the same backup.",
    )
    look_seconds: float = _setting(
        10.0, Seconds(0.1, _DAY), "How often is looked whether certificates have changed, in files or in the database."
    )


@dataclass(frozen=True, slots=True)
class ListenerClients:
    """What one listener demands of its clients in the TLS handshake."""

    mode: str = _setting(
        "off",
        Choice(("off", "ask", "require")),
        "Whether clients are asked for a certificate; require: without a good one there is no session.",
    )
    roots: Path | None = _setting(None, OptionalPath(), "The CAs whose client certificates are good (PEM).")
    crls: Path | None = _setting(None, OptionalPath(), "Revocation lists of these CAs.")
    tickets: bool = _setting(
        True, Switch(), "Whether TLS sessions may be resumed; they never may where certificates are asked for."
    )


@dataclass(frozen=True, slots=True)
class Relaying:
    """Mail that goes out."""

    credentials_file: str = _setting(
        "",
        OptionalFile(),
        "File with credentials for relays (TOML, a table [LABEL] for each), readable by its owner only.",
    )
    daily_recipients: int = _setting(
        0,
        Whole("recipients", 0, 10**9),
        "To how many recipients elsewhere an account may write on one day (UTC); 0 is no limit.",
    )
    client_daily_recipients: int = _setting(
        10_000,
        Whole("recipients", 0, 10**9),
        "To how many recipients elsewhere a relay client may write on one day (UTC); 0 is no limit.",
    )
    private_networks: tuple[str, ...] = _setting(
        (),
        Networks(),
        "Private networks and others that are not of the internet, to which mail goes when an MX record says so; by a"
        " route it goes anywhere.",
    )
    hold_reply: float = _setting(
        0.0,
        Seconds(0, 120),
        "How long the reply to a user's message waits for the first attempt to send it on, so that a refusal is the"
        " reply; 0 is not at all.",
    )
    tls_reports: bool = _setting(
        True, Switch(), "Whether domains that ask for it hear each day how TLS with their servers went (RFC 8460)."
    )


@dataclass(frozen=True, slots=True)
class Queueing:
    """The queue of mail that goes out: when it is tried again, and how much at a time."""

    first_retry: float = _setting(300.0, Seconds(60, _DAY), "Pause after the first failed attempt; it doubles.")
    longest_retry: float = _setting(14_400.0, Seconds(60, 7 * _DAY), "The longest pause between two attempts.")
    delayed_after: float = _setting(
        14_400.0, Seconds(0, 366 * _DAY), "When the sender is told that it takes long; 0 is never."
    )
    give_up_after: float = _setting(
        5 * _DAY,
        Seconds(60, 366 * _DAY),
        "When mail that cannot be handed over goes back to its sender.",
        advised=(4 * _DAY, "RFC 5321 section 4.5.4.1"),
    )
    connections: int = _setting(100, Whole("connections", 1, 10000), "Connections to other servers at a time.")
    per_destination: int = _setting(
        20, Whole("connections", 1, 10000), "Connections to one destination at a time; it begins with 5."
    )
    recipients: int = _setting(
        100,
        Whole("recipients", 1, 100000),
        "Recipients of one message in one connection.",
        advised=(100, "RFC 5321 section 4.5.3.1.8"),
    )
    in_memory: int = _setting(
        2000, Whole("recipients", 10, 1000000), "Recipients whose turn comes next, in the memory of the service."
    )


@dataclass(frozen=True, slots=True)
class Sendmail:
    """Mail from programs of this machine (`mailsvc sendmail`)."""

    via: str = _setting(
        "", OptionalPlace(), 'The relay that gets it, as a URL; "" puts it into the database, for the service.'
    )
    domain: str = _setting(
        "", OptionalPlace(), 'What is put behind a name without a domain ("root"); "" is the name of this host.'
    )


@dataclass(frozen=True, slots=True)
class BackupMX:
    """Domains of other servers that we are a backup for (`mailsvc backup`)."""

    fetch_seconds: float = _setting(
        300.0, Seconds(1, _DAY), "How often the list of recipients is fetched from a primary, or looked at in a file."
    )


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """`ListenerClients` by listener."""

    smtp: ListenerClients = field(default_factory=ListenerClients)
    submission: ListenerClients = field(default_factory=ListenerClients)
    submissions: ListenerClients = field(default_factory=ListenerClients)
    lmtp: ListenerClients = field(default_factory=ListenerClients)
    pop3: ListenerClients = field(default_factory=ListenerClients)
    pop3s: ListenerClients = field(default_factory=ListenerClients)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is in force. `Configuration()` is all defaults of one who is not root, named localhost."""

    hostname: str = _setting(
        "localhost",
        Hostname(),
        "Full name of this service, as greetings and certificates say it.",
        option=True,
    )
    certs: Path = _setting(
        Path("certs"),
        Folder(),
        "Folder of certificates: NAME/fullchain.pem and NAME/privkey.pem in it for each.",
        option=True,
    )
    database: str = _setting(
        "emaildb.sqlite3",
        DatabaseName(),
        "Where accounts and mail are kept; a file is made when it is missing.",
        option=True,
    )
    tls: str = _setting(
        "required",
        Choice(("required", "optional")),
        "Whether other servers must use TLS to bring mail; a public MX needs optional. Users always must.",
        option=True,
    )
    listen: Listen = field(default_factory=Listen)
    smtp: Smtp = field(default_factory=Smtp)
    pop3: Pop3 = field(default_factory=Pop3)
    timeouts: Timeouts = field(default_factory=Timeouts)
    accounts: Accounts = field(default_factory=Accounts)
    limits: Limits = field(default_factory=Limits)
    gate: Gate = field(default_factory=Gate)
    downgrade: Downgrade = field(default_factory=Downgrade)
    events: Events = field(default_factory=Events)
    log: Log = field(default_factory=Log)
    delivery: Delivery = field(default_factory=Delivery)
    certificates: Certificates = field(default_factory=Certificates)
    client_certificates: ClientCertificates = field(default_factory=ClientCertificates)
    relay: Relaying = field(default_factory=Relaying)
    queue: Queueing = field(default_factory=Queueing)
    backup: BackupMX = field(default_factory=BackupMX)
    sendmail: Sendmail = field(default_factory=Sendmail)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What only the machine knows: its full name, and whether we are root.

    `fqdn` asks the resolver, which may take seconds, so it is called only when nobody gave a hostname.
    """

    fqdn: Callable[[], str]
    privileged: bool
