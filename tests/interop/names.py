"""DNS of a small internet: Knot serves the zones, Unbound asks it, checks signatures and answers the machines.

Zones are signed here, by dnspython, and then served as they are; so a zone can also be one that somebody has changed
after it was signed.  There is no signed root: each signed zone has a trust anchor of its own in the configuration of
Unbound, and whatever has none is unsigned, as most of the real DNS is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import dns.dnssec
import dns.dnssectypes
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.interop.programs import program
from tests.interop.world import World

_SERVER, _RESOLVER = "127.0.0.2", "127.0.0.1"
_SOA = "@ 300 IN SOA ns.invalid. postmaster.invalid. 1 3600 600 86400 60\n@ 300 IN NS ns.invalid.\n"
_DAY = 86400


@dataclass(frozen=True)
class Zone:
    """A zone: its name without the final dot ("" for the root), and its records in the format of a zone file, without
    SOA and NS.  ``forged``: what stands in the place of records of the same owner and type after the signing."""

    name: str
    records: Sequence[str]
    signed: bool = False
    forged: Sequence[str] = ()


def tlsa_3_1_1(certificate: x509.Certificate) -> str:
    """The data of a record for this server's key (RFC 7671 section 5.1)."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(key).hexdigest()}"


def tlsa_2_0_1(authority: x509.Certificate) -> str:
    """The data of a record for this issuer of the server's certificate (RFC 7671 section 5.2)."""
    return f"2 0 1 {hashlib.sha256(authority.public_bytes(Encoding.DER)).hexdigest()}"


def serve(world: World, zones: Sequence[Zone]) -> None:
    """Start both; from now on the world has names."""
    folder = world.folder / "names"
    folder.mkdir()
    served, asked, anchors = [], [], []
    for zone in zones:
        origin = f"{zone.name}."
        text, key = _zone(zone, origin)
        path = folder / f"{zone.name or 'root'}.zone"
        path.write_text(text)
        served.append(f'  - domain: "{origin}"\n    file: "{path}"\n')
        asked.append(f'stub-zone:\n  name: "{origin}"\n  stub-addr: {_SERVER}\n  stub-prime: no\n')
        if key:
            anchors.append(f'  trust-anchor: "{origin} IN DNSKEY {key}"\n')
    (folder / "knot.conf").write_text(
        f'server:\n  rundir: "{folder}"\n  listen: {_SERVER}@53\nlog:\n  - target: stdout\n    any: info\n'
        f'database:\n  storage: "{folder}"\ntemplate:\n  - id: default\n    zonefile-load: whole\n'
        f"zone:\n{''.join(served)}"
    )
    (folder / "unbound.conf").write_text(
        f'server:\n  interface: {_RESOLVER}\n  access-control: 127.0.0.0/8 allow\n  username: ""\n  chroot: ""\n'
        f'  directory: "{folder}"\n  pidfile: ""\n  use-syslog: no\n  logfile: ""\n  verbosity: 1\n  num-threads: 1\n'
        '  do-not-query-localhost: no\n  module-config: "validator iterator"\n  val-log-level: 2\n'
        f"{''.join(anchors)}remote-control:\n  control-enable: no\n{''.join(asked)}"
    )
    world.start("Knot", [program("knotd"), "-c", str(folder / "knot.conf")], "server started")
    world.start("Unbound", [program("unbound"), "-d", "-p", "-c", str(folder / "unbound.conf")], "start of service")


def _zone(zone: Zone, origin: str) -> tuple[str, str]:
    """The zone file, and the DNSKEY that signed it ("" for none)."""
    made = dns.zone.from_text(_SOA + "\n".join(zone.records) + "\n", origin, relativize=False)
    key = ""
    if zone.signed:
        private = ec.generate_private_key(ec.SECP256R1())
        public = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
        dns.dnssec.sign_zone(made, keys=[(private, public)], lifetime=_DAY, dnskey_ttl=300)
        key = public.to_text()
    for line in zone.forged:
        name, ttl, _, kind, data = line.split(None, 4)
        records = made.find_rdataset(name, kind)
        records.clear()
        records.add(dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), data), int(ttl))
    return made.to_text(relativize=False), key
