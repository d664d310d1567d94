"""The source of certificates that docs/certificates.rst shows is run as it stands there."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import mailsvc
from mailsvc.certkit.keys import encode_key
from mailsvc.config import Configuration
from mailsvc.config.settings import Listen
from mailsvc.service import make_service
from mailsvc.tls.sources import load_table
from tests.pki import HOSTNAME, chain_pem
from tests.test_tls_gate import issued

PAGE = Path(mailsvc.__file__).resolve().parent.parent / "docs" / "certificates.rst"


class ThirdSource(SynchronousTestCase):
    """Thirty lines are enough."""

    def setUp(self) -> None:
        if not PAGE.exists():
            raise SkipTest("an installed mailsvc without its documentation")
        _, _, after = PAGE.read_text("utf-8").partition("code-block:: python\n\n")
        lines = after.split("\n")
        end = next(number for number, line in enumerate(lines) if line and not line.startswith("    "))
        code = textwrap.dedent("\n".join(lines[:end]))
        names: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), names)
        made = issued(HOSTNAME)
        self.secrets = {HOSTNAME: {"version": 1, "chain": chain_pem(made), "key": encode_key(made.key)}}
        self.works = True
        self.source = names["SecretStore"](self.fetch, [HOSTNAME])

    def fetch(self, name: str) -> dict[str, object]:
        if not self.works:
            raise OSError("no route")
        return self.secrets[name]

    def test_it_is_a_source(self) -> None:
        """Its certificate is taken, a change shows in its state, and a failure is a finding and no removal."""
        table = load_table([self.source], HOSTNAME, datetime.now(UTC))
        self.assertEqual(table.default.origin, "the secret store")
        before = self.source.state()
        self.assertEqual(before, self.source.state())
        self.secrets[HOSTNAME]["version"] = 2
        self.assertNotEqual(before, self.source.state())
        self.works = False
        (finding,) = self.source.read().findings
        self.assertEqual((finding.severity, self.source.read().candidates), ("error", ()))
        self.assertIn("no route", self.source.state())

    def test_the_service_takes_it(self) -> None:
        """Without any folder of certificates."""
        from twisted.internet import reactor

        folder = Path(self.mktemp())
        off = Listen(smtp=(), submission=(), submissions=(), pop3=(), pop3s=("tcp:0:interface=127.0.0.1",))
        configuration = Configuration(
            hostname=HOSTNAME, certs=folder / "certs", database=str(folder.absolute()) + ".sqlite3", listen=off
        )
        service = make_service(configuration, reactor, environ={}, more_sources=[self.source])
        self.assertEqual(len(service.listeners), 1)
