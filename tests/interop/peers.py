"""Other people's mail servers that take mail from us: Postfix, OpenSMTPD, Exim and smtp-sink, in a `World`.

Each has a configuration of its own and keeps nothing outside the world's folder.  What it takes ends as a file below
its `box`, so that a test can look at the octets; what it says of the channel is in its log.  Their certificates are of
`tests.pki`'s CA; each covers the names that it is given.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SkipTest

from mailsvc.certkit.build import Issued, server_certificate
from mailsvc.certkit.keys import encode_key, new_key
from tests.interop.foreground import Foreground
from tests.interop.postfix import configure
from tests.interop.programs import program
from tests.interop.world import NETWORK, PEERS, World, until
from tests.pki import authority, chain_pem, credential

USER, PASSWORD = "relayuser", "correct horse"
"""The login of the servers that demand one."""


@dataclass
class MailServer:
    """One of them.  ``host`` is its address, ``box`` the folder where what it took ends."""

    name: str
    host: str
    box: Path
    server: Foreground | None = field(default=None, repr=False)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return "\n".join(self.server.log) if self.server is not None else ""

    def copies(self, marker: str) -> list[bytes]:
        """The messages in its box with this text in them."""
        files = (path for path in self.box.rglob("*") if path.is_file() and path.parent.name != "tmp")
        return [text for path in files if marker.encode() in (text := _read(path))]

    def took(self, marker: str) -> bytes:
        """The message with this text, once it is in the box."""
        until(lambda: bool(self.copies(marker)), f"{self.name} has no message with {marker!r}; it said:\n{self.log}")
        return self.copies(marker)[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # moved meanwhile
        return b""


def address(last: int) -> str:
    """An address in the world."""
    return f"{NETWORK}.{last}"


def write_credential(folder: Path, issued: Issued) -> tuple[Path, Path]:
    """The files of a certificate with its chain, and of its key."""
    folder.mkdir(exist_ok=True)
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    chain.write_bytes(chain_pem(issued))
    chain.chmod(0o644)
    key.touch(0o600)
    key.write_bytes(encode_key(issued.key))
    return chain, key


def write_ca(folder: Path) -> Path:
    """The file of the CA of everybody here."""
    path = folder / "ca.pem"
    path.write_bytes(authority().certificate.public_bytes(Encoding.PEM))
    return path


def postfix(world: World, last: int, names: Sequence[str], domains: Sequence[str], closed: int) -> MailServer:
    """Postfix for these domains: ports 25 (STARTTLS) and 465; at the address ``closed`` port 25 demands a client
    certificate of our CA.  The local part ``nobody`` does not exist, ``busy`` is put off."""
    folder = _home(world, "postfix")
    host = address(last)
    (folder / "box").mkdir()
    shutil.chown(folder / "box", "nobody")
    chain, key = write_credential(folder / "tls", credential(tuple(names)))
    demanding = "-o smtpd_tls_req_ccert=yes -o smtpd_tls_security_level=encrypt -o smtpd_tls_session_cache_database="
    services = (
        "virtual unix - n n - - virtual\n"
        f"{host}:25 inet n - n - - smtpd\n"
        f"{host}:465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n"
        f"{address(closed)}:25 inet n - n - - smtpd {demanding}\n"
    )
    boxes = " ".join(f"{{ @{domain} = all/ }}" for domain in domains)
    configure(
        folder,
        names[0],
        services,
        f"""\
mynetworks =
message_size_limit = 2000000
virtual_mailbox_limit = 0
virtual_mailbox_domains = {", ".join(domains)}
virtual_mailbox_base = {folder}/box
virtual_mailbox_maps = inline:{{ {boxes} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
smtpd_recipient_restrictions =
  check_recipient_access inline:{{ {{ nobody@ = REJECT no such user }} {{ busy@ = DEFER_IF_PERMIT later }} }},
  reject_unauth_destination
smtpd_relay_restrictions =
smtpd_discard_ehlo_keywords =
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {chain}
smtpd_tls_CAfile = {write_ca(folder)}
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtputf8_enable = yes
""",
    )
    command = [program("postfix"), "-c", str(folder / "etc"), "start-fg"]
    return MailServer("Postfix", host, folder / "box", world.start("Postfix", command, "daemon started"))


def smtp_sink(world: World, last: int, *options: str, name: str = "sink", port: int = 25) -> MailServer:
    """smtp-sink; it knows no TLS, no SMTPUTF8 and no DSN, and writes what it takes into files."""
    folder = _home(world, name)
    box = folder / "box"
    box.mkdir()
    shutil.chown(box, "nobody")
    host = address(last)
    command = [program("smtp-sink"), "-u", "nobody", *options, "-d", f"{box}/%H%M%S.", f"{host}:{port}", "100"]
    server = world.start("smtp-sink", command, "")
    world.listens(host, port)
    return MailServer("smtp-sink", host, box, server)


def exim(world: World, last: int, names: Sequence[str], domains: Sequence[str]) -> MailServer:
    """Exim for these domains: ports 25 (STARTTLS), 465, and 587 where a login is demanded (PLAIN, LOGIN)."""
    binary = _unpacked("usr/sbin/exim4")
    folder = _home(world, "exim")
    host = address(last)
    chain, key = write_credential(folder / "tls", credential(tuple(names)))
    for path in (folder, folder / "tls", key):
        shutil.chown(path, 64102, 64102)
    for place in ("spool", "log", "box"):
        (folder / place).mkdir()
        shutil.chown(folder / place, 64102, 64102)
    settings = folder / "exim.conf"
    settings.write_text(f"""\
primary_hostname = {names[0]}
exim_path = {binary}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
local_interfaces = <; {host}
daemon_smtp_ports = 25 : 465 : 587
tls_on_connect_ports = 465
tls_advertise_hosts = *
tls_certificate = {chain}
tls_privatekey = {key}
log_selector = +tls_cipher +received_recipients +smtp_protocol_error
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
chunking_advertise_hosts = *
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
accept_8bitmime = true
rfc1413_hosts =
host_lookup =
keep_environment =
never_users =
acl_smtp_rcpt = recipients
domainlist ours = {" : ".join(domains)}
begin acl
recipients:
  deny condition = ${{if eq{{$local_part}}{{nobody}}}}
       message = 5.1.1 no such user
  accept authenticated = *
  deny condition = ${{if eq{{$received_port}}{{587}}}}
       message = 5.7.0 authentication is required here
  accept domains = +ours
  deny message = 5.7.1 relaying is not permitted
begin routers
all:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  maildir_format
  directory = {folder}/box/all
  create_directory
  user = Debian-exim
  group = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USER}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
""")
    world.run("mkdir", "-p", "/var/lib/exim4")
    # Another file than the compiled-in one costs Exim its privileges.
    world.run("install", "-m", "644", str(settings), "/var/lib/exim4/config.autogenerated")
    server = world.start("Exim", [str(binary), "-bdf"], "")
    world.listens(host, 587)
    return MailServer("Exim", host, folder / "box", server)


def opensmtpd_version() -> str:
    """What it says of itself."""
    return subprocess.run([_unpacked("usr/sbin/smtpd"), "-h"], capture_output=True, text=True, check=False).stderr


def opensmtpd(world: World, last: int, names: Sequence[str], domains: Sequence[str]) -> MailServer:
    """OpenSMTPD for these domains: ports 25 (STARTTLS), 465, and 587 where a login is demanded."""
    binary = _unpacked("usr/sbin/smtpd")
    folder = _home(world, "opensmtpd")
    host = address(last)
    (folder / "box").mkdir()
    shutil.chown(folder / "box", "nobody")
    # OpenSMTPD 6.8 cannot use other keys than RSA with OpenSSL 3.
    issued = server_certificate(authority(), tuple(names), datetime.now(UTC), key=new_key("rsa-2048"))
    chain, key = write_credential(folder / "tls", issued)
    hashed = world.run(str(_unpacked("usr/libexec/opensmtpd/encrypt")), PASSWORD).strip()
    listed = ", ".join(f'"{domain}"' for domain in domains)
    settings = folder / "smtpd.conf"
    settings.write_text(f"""\
pki here cert "{chain}"
pki here key "{key}"
table domains {{ {listed} }}
table people {{ "@" = nobody }}
table logins {{ {USER} = "{hashed}" }}
listen on {host} port 25 tls pki here hostname {names[0]}
listen on {host} port 465 smtps pki here hostname {names[0]}
listen on {host} port 587 tls-require pki here auth <logins> hostname {names[0]}
action box maildir "{folder}/box/all" virtual <people>
match from any for domain <domains> rcpt-to regex "^nobody@" reject
match from any for domain <domains> action box
match from any auth for any action box
""")
    settings.chmod(0o600)
    # With these modes and no others, whatever the umask of the tests is.
    world.run("install", "--directory", "--mode=755", "/var/lib/opensmtpd", "/var/lib/opensmtpd/empty")
    world.run("install", "--directory", "--mode=711", "/var/spool/smtpd")
    server = world.start("OpenSMTPD", [str(binary), "-d", "-f", str(settings)], "")
    world.listens(host, 587)
    return MailServer("OpenSMTPD", host, folder / "box", server)


def _home(world: World, name: str) -> Path:
    folder = world.folder / name
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def _unpacked(path: str) -> Path:
    """A program of a package that `.ci/peers` unpacks; skips the test without it, or fails it like `program`."""
    found = PEERS / path
    if found.exists():
        return found
    try:
        return Path(program(Path(path).name))
    except SkipTest as why:
        raise SkipTest(f"{why} (.ci/peers unpacks it)") from None
