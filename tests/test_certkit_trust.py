"""`check_trust`: bad chains are refused, each with its sentence, and never is one accepted that `openssl` refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, client_certificate, new_authority, server_certificate
from mailsvc.certkit.files import Source
from mailsvc.certkit.inspect import Chain, read_chain
from mailsvc.certkit.install import chain_pem
from mailsvc.certkit.keys import KINDS, new_key
from mailsvc.certkit.revocation import new_list
from mailsvc.certkit.trust import Trust, check_trust
from mailsvc.tls.recheck import Purpose
from mailsvc.tls.verify import read_roots
from tests.bad_certificates import bad_certificates, make
from tests.pki import openssl

NOW = datetime.now(UTC)
PLACE = Path("chain.pem")


def trusting(*authorities: Issued) -> Trust:
    return Trust(tuple(each.certificate for each in authorities), "ca.pem")


class GoodTests(SynchronousTestCase):
    """What a careful peer accepts."""

    def test_what_we_issue(self) -> None:
        """Servers and clients, with the CA's certificate behind them and without; `openssl verify` agrees."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for kind in ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519"):
            self.assertIn(kind, KINDS)
            ca = new_authority("Test CA", NOW, key=new_key(kind))
            server = server_certificate(ca, ["a.example.org"], NOW, key=new_key(kind))
            client = client_certificate(ca, "alice", NOW, emails=["alice@example.org"])
            (folder / "ca.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
            for leaf, purpose, name in ((server, "server", "a.example.org"), (client, "client", None)):
                for chain in ((leaf.certificate,), (leaf.certificate, ca.certificate)):
                    verdict = check_trust(chain, PLACE, trusting(ca), NOW, purpose=purpose, hostname=name)  # type: ignore[arg-type]
                    self.assertEqual((verdict.path, verdict.findings), ((leaf.certificate, ca.certificate), ()))
                (folder / "leaf.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
                strict = ("verify", "-x509_strict", "-purpose", f"ssl{purpose}", "-CAfile", folder / "ca.pem")
                self.assertIn("OK", openssl(*strict, folder / "leaf.pem"))


class BadTests(SynchronousTestCase):
    """What it refuses."""

    def test_the_table(self) -> None:
        """Every bad certificate that the TLS sides refuse is refused here too, as a server's and as a client's."""
        for purpose in Purpose:
            for bad in bad_certificates(purpose):
                if bad.trust.pins:
                    continue  # a file is not held against pins
                chain, findings = read_chain(Source(PLACE, chain_pem(bad.chain)))
                if not chain:
                    self.assertTrue(findings, bad.title)
                    continue
                trust = Trust(read_roots(bad.trust), "ca.pem", bad.trust.crls)
                word, name = ("server", bad.name) if purpose is Purpose.SERVER else ("client", None)
                verdict = check_trust(chain, PLACE, trust, datetime.now(UTC), purpose=word, hostname=name)  # type: ignore[arg-type]
                self.assertFalse(verdict.good, bad.title)

    def test_a_ca_for_something_else(self) -> None:
        """A CA whose extended key usage lacks the purpose limits what is below it; `openssl verify` agrees."""
        folder = Path(self.mktemp())
        folder.mkdir()
        ca = make(None, "mail CA", ca=True, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        leaf = server_certificate(Issued(ca.certificate, ca.key), ["b.example.org"], NOW).certificate
        self.expect((leaf,), Trust((ca.certificate,), "ca.pem"), NOW, "whose extended key usage does not allow servers")
        for name, certificate in (("ca.pem", ca.certificate), ("leaf.pem", leaf)):
            (folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))
        check = ("verify", "-purpose", "sslserver", "-CAfile", folder / "ca.pem", folder / "leaf.pem")
        self.assertRaises(AssertionError, openssl, *check)

    def test_all_findings_at_once(self) -> None:
        """Expired, for another name, for another purpose, revoked, from an unknown CA: five sentences, not one."""
        ca, other = new_authority("Test CA", NOW), new_authority("Other CA", NOW)
        leaf = client_certificate(ca, "alice", NOW, lifetime=timedelta(days=1)).certificate
        revoked = new_list(ca, None, [leaf.serial_number], "superseded", NOW)
        later = NOW + timedelta(days=2)
        known = Trust((ca.certificate,), "ca.pem", (revoked,))
        self.expect(
            (leaf,),
            known,
            later,
            "expired on",
            "names no host",
            "is not made for servers",
            "does not cover b.example.org",
            "was revoked on",
        )
        unknown = trusting(other)
        self.expect(
            (leaf,), unknown, NOW, "names no host", "not made for servers", "which is neither in", "does not cover"
        )

    def expect(self, chain: Chain, trust: Trust, now: datetime, *facts: str) -> None:
        verdict = check_trust(chain, PLACE, trust, now, hostname="b.example.org")
        texts = [str(each) for each in verdict.findings if each.severity == "error"]
        self.assertEqual(len(texts), len(facts), texts)
        for text, fact in zip(texts, facts, strict=True):
            self.assertIn(fact, text)
