"""What TLS costs: handshakes per CPU second beside `openssl s_server`, memory of idle sessions.  See README.rst.

python bench/tls.py [--rounds 5] [--count 2000] [--key ecdsa-p256]
python bench/tls.py --idle 1000
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from OpenSSL import SSL

from mailsvc.certkit.build import server_certificate
from mailsvc.certkit.files import PRIVATE, PUBLIC
from mailsvc.certkit.keys import KINDS, encode_key, new_key
from tests.handshakes import Plan, Shaker, shaker
from tests.pki import HOSTNAME, Certs, authority, chain_pem, make_certs
from tests.running import ROOT, RunningService, python_environment

KINDS_OF_HANDSHAKE = (("1.3", False), ("1.3", True), ("1.2", False), ("1.2", True))
IDLE = (("smtp", "smtp"), ("submission", "smtp"), ("submissions", ""), ("pop3", "pop3"), ("pop3s", ""))


@dataclass(frozen=True)
class Server:
    """A process to measure, and where it shakes hands from the first octet."""

    name: str
    pid: int
    port: int

    def cpu(self) -> float:
        """User and system time of the process so far, in seconds (Linux)."""
        # Its CPU clock (clock_getcpuclockid(3)): /proc/PID/stat counts in steps of 10 ms.
        return time.clock_gettime((~self.pid << 3) | 2)


def certificates(folder: Path, kind: str) -> Certs:
    """A certs folder with a key of this kind."""
    certs = make_certs(folder)
    issued = server_certificate(authority(), [HOSTNAME, "localhost", "127.0.0.1"], datetime.now(UTC), key=new_key(kind))
    for name, octets, mode in (
        ("fullchain.pem", chain_pem(issued), PUBLIC),
        ("privkey.pem", encode_key(issued.key), PRIVATE),
    ):
        path = folder / HOSTNAME / name
        path.write_bytes(octets)
        path.chmod(mode)
    return certs


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process, until the block ends."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def s_server(stack: ExitStack, certs: Certs) -> Server:
    """`openssl s_server` on a port of the kernel's choice; it prints nothing about its sessions."""
    program = shutil.which("openssl")
    if program is None:
        raise SystemExit("bench/tls.py: the openssl program is missing")
    pair = certs.folder / certs.hostname
    process = subprocess.Popen(
        [
            *(program, "s_server", "-accept", "127.0.0.1:0", "-quiet"),
            *("-cert", str(pair / "fullchain.pem"), "-key", str(pair / "privkey.pem")),
            *("-cert_chain", str(pair / "fullchain.pem")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="utf-8",
    )
    stack.enter_context(ended(process))
    return Server("openssl s_server", process.pid, _port_of(process.pid))


def _port_of(pid: int) -> int:
    """The port on which a process of ours listens: -quiet does not say it, /proc does."""
    while True:
        sockets = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(os.readlink(entry))
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                return int(fields[1].rpartition(":")[2], 16)


def python(stack: ExitStack, certs: Certs, name: str, what: str) -> Server:
    """A server of this file (`SERVED`), as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", what, str(certs.folder / certs.hostname)],
        env=python_environment(ROOT),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    stack.enter_context(ended(process))
    assert process.stdout is not None
    return Server(name, process.pid, int(process.stdout.readline()))


def loop(folder: Path) -> None:
    """One connection after the other by pyOpenSSL: what mailsvc's OpenSSL needs, and nothing else; prints its port."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"loop")
    context.use_certificate_chain_file(str(folder / "fullchain.pem"))
    context.use_privatekey_file(str(folder / "privkey.pem"))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    while True:
        accepted, _ = listening.accept()
        connection = SSL.Connection(context, accepted)
        connection.set_accept_state()
        connection.do_handshake()
        try:
            connection.recv(1)
        except SSL.ZeroReturnError:
            connection.shutdown()
        accepted.close()


def bare(folder: Path) -> None:
    """`ServerTLS` in Twisted with a protocol behind it that says nothing; prints its port."""
    from cryptography import x509
    from twisted.internet import reactor as imported
    from twisted.internet.protocol import Factory, Protocol

    from mailsvc.certkit.keys import load_key
    from mailsvc.tls.credential import make_credential
    from mailsvc.tls.server import ServerTLS
    from mailsvc.tls.table import make_table
    from mailsvc.wire.implicit import ImplicitTLSFactory

    reactor: Any = imported
    chain = tuple(x509.load_pem_x509_certificates((folder / "fullchain.pem").read_bytes()))
    credential = make_credential(HOSTNAME, chain, load_key((folder / "privkey.pem").read_bytes()))
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    inside = ImplicitTLSFactory(ServerTLS(make_table([credential], HOSTNAME)), False, factory, reactor)
    port = reactor.listenTCP(0, inside, interface="127.0.0.1")
    reactor.callWhenRunning(lambda: print(port.getHost().port, flush=True))
    reactor.run()


SERVED = {"loop": loop, "bare": bare}


def handshakes(rounds: int, count: int, kind: str) -> None:
    """Measure all servers in turn, round by round, and print handshakes per CPU second."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mailsvc-bench-")))
        certs = certificates(folder / "certs", kind)
        service = stack.enter_context(RunningService(folder, certs=certs))
        servers = [
            s_server(stack, certs),
            python(stack, certs, "pyOpenSSL in a loop", "loop"),
            python(stack, certs, "mailsvc's TLS alone", "bare"),
            Server("mailsvc, submissions", service.pid, service.ports["submissions"]),
            Server("mailsvc, pop3s", service.pid, service.ports["pop3s"]),
        ]
        client = stack.enter_context(shaker(folder))
        costs: dict[tuple[str, str, bool], list[float]] = {}
        terms: set[str] = set()
        for number in range(rounds + 1):
            for version, resume in KINDS_OF_HANDSHAKE:
                for server in servers:
                    spent = _round(client, server, Plan(server.port, count, version=version, resume=resume), terms)
                    if number:  # the first round warms up
                        costs.setdefault((server.name, version, resume), []).append(spent)
    print(f"{kind} key; {', '.join(sorted(terms))}; {rounds} rounds of {count} handshakes")
    for title, of in (("median of the rounds", statistics.median), ("least disturbed round", min)):
        print(f"{title:<24}" + "".join(f"{_name(*each):>20}" for each in KINDS_OF_HANDSHAKE))
        for server in servers:
            cells = []
            for version, resume in KINDS_OF_HANDSHAKE:
                rate = count / of(costs[server.name, version, resume])
                beside = count / of(costs[servers[0].name, version, resume])
                cells.append(f"{rate:>12,.0f} ({rate / beside:>4.0%})")
            print(f"{server.name:<24}" + "".join(f"{cell:>20}" for cell in cells))


def _round(client: Shaker, server: Server, plan: Plan, terms: set[str]) -> float:
    before = server.cpu()
    shaken = client.run(plan)
    spent = server.cpu() - before
    if shaken.done != plan.count or shaken.resumed != (plan.count if plan.resume else 0):
        raise SystemExit(f"bench/tls.py: {server.name}: {shaken} for {plan}")
    terms.add(shaken.terms)
    return spent


def _name(version: str, resume: bool) -> str:
    return f"{version} {'resumed' if resume else 'full'}"


def resident(pid: int) -> int:
    """Memory of a process that is in use now, in KiB (Rss; Linux)."""
    found = re.search(r"Rss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert found is not None
    return int(found[1])


def idle(count: int) -> None:
    """Memory of `count` idle sessions on each listener, with TLS and without, and of as many more."""
    print(f"{'KiB for each of':<24}{f'the first {count:,}':>16}{f'{count:,} more':>16}")
    for version in ("1.3", "1.2"):
        for listener, starttls in IDLE:
            _idle(f"{listener}, TLS {version}", listener, Plan(0, count, starttls, version, idle=True))
    for listener in ("smtp", "pop3"):
        _idle(f"{listener}, in clear", listener, Plan(0, count, idle=True, plain=True))


def _idle(name: str, listener: str, plan: Plan) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mailsvc-bench-")))
        settings = folder / "settings.toml"
        # One network gets half of all places, and the lines of a greeting are all that is said.
        settings.write_text(f"[limits]\nconnections = {5 * plan.count}\n")
        service = stack.enter_context(RunningService(folder, options=(f"--config={settings}",)))
        port = service.ports[listener]
        # What only the first sessions cost is no part of what one more costs.
        with shaker(folder) as few:
            few.run(Plan(port, 50, plan.starttls, plan.version, idle=True, plain=plan.plain))
        memory = [resident(service.pid)]
        client = stack.enter_context(shaker(folder))
        for _ in range(2):
            client.run(Plan(port, plan.count, plan.starttls, plan.version, idle=True, plain=plan.plain))
            memory.append(resident(service.pid))
        each = [(after - before) / plan.count for before, after in pairwise(memory)]
    print(f"{name:<24}" + "".join(f"{cell:>16.1f}" for cell in each), flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the TLS of mailsvc on loopback.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median counts (5)")
    parser.add_argument("--count", type=int, default=2000, help="handshakes of a round (2000)")
    parser.add_argument("--key", choices=KINDS, default=KINDS[0], help=f"kind of the server's key ({KINDS[0]})")
    parser.add_argument("--idle", type=int, metavar="N", help="measure the memory of N idle sessions instead")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        SERVED[options.serve[0]](Path(options.serve[1]))
        return 0
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; "
        f"mailsvc: {SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()}; client: {ssl.OPENSSL_VERSION}; "
        + (subprocess.run(["openssl", "version"], capture_output=True, encoding="utf-8").stdout.strip())
    )
    if options.idle:
        idle(options.idle)
    else:
        handshakes(options.rounds, options.count, options.key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
