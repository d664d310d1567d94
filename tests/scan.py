"""What sslscan and testssl.sh find at the listeners of a real service, as values.

``python -m tests.scan`` starts a service on loopback, runs both on every listener, prints what docs/tls-scan.rst
keeps; its exit status is 1 when something is of medium severity or worse. The interoperability tests use the same
functions with fewer checks.

Nothing leaves the machine: the address is given, so that no name is looked up, and testssl.sh fetches neither CRLs nor
OCSP answers unless it is told to. The certificate is one of `mailsvc certs init --crl-url`, because testssl.sh takes
one without CRL and OCSP for a finding of its own; nobody fetches the list.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailsvc.certkit.layout import create
from tests.pki import HOSTNAME, Certs
from tests.running import LISTENERS, RunningService

STARTTLS = {"smtp": "smtp", "submission": "smtp", "submissions": "", "pop3": "pop3", "pop3s": ""}
SERIOUS = ("MEDIUM", "HIGH", "CRITICAL", "FATAL")
REMARKS = ("LOW", "WARN", *SERIOUS)
MODERN = ("TLSv1.2", "TLSv1.3")

Program = Callable[[str], str]
Run = Callable[[list[str]], bytes]


@dataclass(frozen=True)
class Finding:
    """Something that a scanner does not like: its own name for the check, its severity, and its words."""

    check: str
    severity: str
    words: str

    def __str__(self) -> str:
        return f"{self.severity} {self.check}: {self.words}"


@dataclass(frozen=True)
class Scan:
    """One run: how many results there were in all, and those that are more than information."""

    results: int
    findings: tuple[Finding, ...]

    @property
    def serious(self) -> tuple[Finding, ...]:
        """What is of medium severity or worse."""
        return tuple(finding for finding in self.findings if finding.severity in SERIOUS)


def certs_with_crl(folder: Path) -> Certs:
    """What `mailsvc certs init --crl-url` makes: the certificate says where its CA's CRL is."""
    names = (HOSTNAME, "localhost", "127.0.0.1")
    made = create(folder, names, None, datetime.now(UTC), crl_url="http://ca.example.org/ca.crl")
    return Certs(folder, made.authority, HOSTNAME)


def run_sslscan(program: str, service: RunningService, listener: str, run: Run) -> Scan:
    """Run sslscan against a listener and judge what it has seen: it counts, and does not grade as testssl.sh does."""
    starttls = [f"--starttls-{STARTTLS[listener]}"] if STARTTLS[listener] else []
    place = f"127.0.0.1:{service.ports[listener]}"
    said = run([program, "--xml=-", "--no-colour", f"--sni-name={HOSTNAME}", *starttls, place])
    [test] = ElementTree.fromstring(said).iter("ssltest")
    findings = [
        *(
            Finding("protocol", "HIGH", f"{each.get('type')} {each.get('version')} is spoken")
            for each in test.iter("protocol")
            if each.get("enabled") == "1" and each.get("version") not in ("1.2", "1.3")
        ),
        *(
            Finding("cipher", "HIGH", f"{each.get('sslversion')} {each.get('cipher')} is {each.get('strength')}")
            for each in test.iter("cipher")
            if each.get("strength") not in ("strong", "acceptable") or each.get("sslversion") not in MODERN
        ),
        *(
            Finding("group", "MEDIUM", f"{each.get('name')} has {each.get('bits')} bits")
            for each in test.iter("group")
            if int(each.get("bits", "0")) < 112
        ),
        *(
            Finding(each.tag, "HIGH", str(sorted(each.attrib.items())))
            for each in test
            if (each.tag == "heartbleed" and each.get("vulnerable") != "0")
            or (each.tag in ("renegotiation", "compression") and each.get("supported") != "0")
            or (each.tag == "fallback" and each.get("supported") != "1")
        ),
        *(
            Finding("certificate", "HIGH", f"{each.tag}: {each.text}")
            for certificate in test.iter("certificate")
            for each in certificate
            if each.tag in ("self-signed", "expired", "not-yet-valid") and each.text == "true"
        ),
    ]
    if len(list(test.iter("cipher"))) < len(MODERN):
        findings.append(Finding("cipher", "FATAL", "nothing could be negotiated"))
    return Scan(len(list(test.iter())), tuple(findings))


def run_testssl(
    program: str, service: RunningService, listener: str, run: Run, folder: Path, checks: Sequence[str] = ()
) -> Scan:
    """Run testssl.sh against a listener, with all of its checks or those that are named by its options."""
    report = folder / f"testssl-{listener}.json"
    run(
        [
            *(program, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1"),
            *("--add-ca", service.ca, "--jsonfile", str(report), *checks),
            *(("-t", STARTTLS[listener]) if STARTTLS[listener] else ()),
            f"{HOSTNAME}:{service.ports[listener]}",
        ]
    )
    results = json.loads(report.read_text("utf-8"))
    findings = tuple(
        Finding(each["id"], each["severity"], each["finding"]) for each in results if each["severity"] in REMARKS
    )
    return Scan(len(results), findings)


def main() -> int:
    """Scan everything and print it; 1 when something is serious."""
    paths = {name: shutil.which(name) for name in ("sslscan", "testssl")}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        print(f"python -m tests.scan: {' and '.join(missing)} must be installed", file=sys.stderr)
        return 2
    serious = 0
    with tempfile.TemporaryDirectory(prefix="mailsvc-scan-") as name:
        folder = Path(name)

        def run(arguments: list[str]) -> bytes:
            return subprocess.run(
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, timeout=600
            ).stdout

        with RunningService(folder / "service", certs=certs_with_crl(folder / "certs")) as service:
            print(f"{datetime.now(UTC):%Y-%m-%d}  {'':<11}  results  medium or worse  seconds  remarks")
            for listener in LISTENERS:
                for scanner in ("sslscan", "testssl"):
                    path, began = paths[scanner], time.monotonic()
                    assert path is not None
                    if scanner == "sslscan":
                        scan = run_sslscan(path, service, listener, run)
                    else:
                        scan = run_testssl(path, service, listener, run, folder)
                    seconds = time.monotonic() - began
                    serious += len(scan.serious)
                    remarks = "; ".join(map(str, scan.findings)) or "none"
                    counts = f"{scan.results:>7}  {len(scan.serious):>15}  {seconds:>7.0f}"
                    print(f"{scanner:<10}  {listener:<11}  {counts}  {remarks}", flush=True)
    return 1 if serious else 0


if __name__ == "__main__":
    sys.exit(main())
