"""sslscan on every listener, and testssl.sh on one: no finding of medium severity or worse.

testssl.sh takes minutes for everything, so here it has one listener and the checks that a change of ours could break;
``python -m tests.scan`` runs all of both (docs/tls-scan.rst).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.programs import program, run
from tests.running import LISTENERS, RunningService
from tests.scan import certs_with_crl, run_sslscan, run_testssl

CHECKS = ("--protocols", "--server-defaults", "--renegotiation", "--compression", "--tls-fallback")


class Scanners(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mailsvc-home-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)

    def started(self) -> RunningService:
        """A service with a certificate of `mailsvc certs init --crl-url`."""
        service = RunningService(self.home / "service", certs=certs_with_crl(self.home / "certs"))
        self.addCleanup(service.stop)
        return service.start()

    def run_here(self, arguments: list[str]) -> bytes:
        """A scanner's standard output."""
        return run(arguments, home=self.home).output

    def test_sslscan_on_every_listener(self) -> None:
        """TLS 1.2 and 1.3 only, no weak cipher or group, no compression, renegotiation or Heartbleed."""
        path = program("sslscan")
        service = self.started()
        for listener in LISTENERS:
            scan = run_sslscan(path, service, listener, self.run_here)
            self.assertEqual((listener, scan.findings), (listener, ()))

    def test_testssl(self) -> None:
        """Versions, defaults, certificate, renegotiation, compression and fallback of the submission listener."""
        path = program("testssl")
        service = self.started()
        scan = run_testssl(path, service, "submission", self.run_here, self.home, CHECKS)
        self.assertEqual(scan.serious, ())
        self.assertGreater(scan.results, 40)
