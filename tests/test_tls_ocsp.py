"""OCSP stapling: which response is shown to clients, and what every other one is refused for."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, new_authority
from mailsvc.tls.credential import make_credential
from mailsvc.tls.ocsp import Staple, read_staple
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.table import make_table
from tests.pki import HOSTNAME, authority, credential

NOW = datetime.now(UTC).replace(microsecond=0)
WEEK = timedelta(days=7)


def chain() -> tuple[x509.Certificate, ...]:
    """The server's chain."""
    return credential((HOSTNAME,)).certificate, authority().certificate


def response(
    *,
    leaf: x509.Certificate | None = None,
    issuer: x509.Certificate | None = None,
    signer: Issued | None = None,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    start: datetime = NOW - timedelta(hours=1),
    end: datetime | None = NOW + WEEK,
    with_certificate: bool = False,
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    """An OCSP response in DER; good unless told otherwise."""
    signer = signer or authority()
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf or credential((HOSTNAME,)).certificate,
        issuer or authority().certificate,
        algorithm or hashes.SHA1(),
        status,
        start,
        end,
        NOW - timedelta(days=1) if revoked else None,
        x509.ReasonFlags.key_compromise if revoked else None,
    )
    if with_certificate:
        builder = builder.certificates([signer.certificate])
    answer = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    return answer.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


@cache
def responder(usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING) -> Issued:
    """A certificate of the test CA for a responder."""
    key = ec.generate_private_key(ec.SECP256R1())
    ca = authority()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "responder")]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - WEEK)
        .not_valid_after(NOW + WEEK)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    return Issued(builder.sign(ca.key, hashes.SHA256()), key)


class ReadTests(SynchronousTestCase):
    """Each response and its sentence."""

    def why_not(self, der: bytes, of: tuple[x509.Certificate, ...] | None = None) -> str:
        staple, why = read_staple(der, of or chain(), NOW)
        self.assertIsNone(staple)
        self.assertNotEqual(why, "")
        return why

    def test_good(self) -> None:
        """By the issuer itself, or by a responder that it appointed; with SHA-1 or SHA-256 as the names' hash."""
        for der in (
            response(),
            response(algorithm=hashes.SHA256()),
            response(signer=responder(), with_certificate=True),
        ):
            staple, why = read_staple(der, chain(), NOW)
            self.assertEqual(why, "")
            assert staple is not None
            self.assertEqual((staple.der, staple.until), (der, (NOW + WEEK).timestamp()))

    def test_about_another(self) -> None:
        """Another serial number, or the same one of another issuer."""
        other = new_authority("another", NOW)
        self.assertIn("another certificate", self.why_not(response(leaf=credential(("b",)).certificate)))
        self.assertIn("another certificate", self.why_not(response(issuer=other.certificate)))

    def test_dates(self) -> None:
        """Ended, from the future, or so old that nothing is said about its end."""
        self.assertIn("it ended on", self.why_not(response(end=NOW - timedelta(seconds=1))))
        self.assertIn("not valid before", self.why_not(response(start=NOW + timedelta(hours=1))))
        self.assertIn("it ended on", self.why_not(response(start=NOW - 3 * WEEK, end=None)))

    def test_not_good(self) -> None:
        """Revoked and unknown."""
        self.assertIn("was revoked on", self.why_not(response(status=ocsp.OCSPCertStatus.REVOKED)))
        self.assertIn("does not know", self.why_not(response(status=ocsp.OCSPCertStatus.UNKNOWN)))
        busy = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
        self.assertIn("try_later", self.why_not(busy.public_bytes(Encoding.DER)))

    def test_signature(self) -> None:
        """Somebody else's, a certificate of our CA that is no responder's, and one that was changed."""
        stranger = new_authority("stranger", NOW)
        wrong = responder(ExtendedKeyUsageOID.SERVER_AUTH)
        for der in (
            response(signer=stranger),
            response(signer=stranger, with_certificate=True),
            response(signer=wrong, with_certificate=True),
            response(signer=responder()),
        ):
            self.assertIn("its signature", self.why_not(der))

    def test_no_response_at_all(self) -> None:
        """Octets of any kind; and a chain that cannot tell the issuer."""
        for der in (b"", b"\x30", response()[:-3], b"-----BEGIN"):
            self.assertIn("no OCSP response", self.why_not(der))
        self.assertIn("issuer's certificate", self.why_not(response(), chain()[:1]))


class ShownTests(SynchronousTestCase):
    """What a client gets in its handshake."""

    def handshake(self, staples: dict[str, Staple | None], server_name: str = "") -> bytes:
        """The staple that a client is shown, b"" for none."""
        credentials = []
        for name, staple in staples.items():
            made = credential((name,))
            whole = (made.certificate, authority().certificate)
            credentials.append(make_credential(name, whole, made.key, staple=staple))
        server = ServerTLS(make_table(credentials, HOSTNAME)).serverConnectionForTLS(None)  # type: ignore[arg-type]
        server.set_accept_state()
        context = SSL.Context(SSL.TLS_METHOD)
        shown: list[bytes] = []

        def take(connection: SSL.Connection, data: bytes, more: object) -> bool:
            shown.append(data)
            return True

        context.set_ocsp_client_callback(take)
        client = SSL.Connection(context, None)
        if server_name:
            client.set_tlsext_host_name(server_name.encode())
        client.request_ocsp()
        client.set_connect_state()
        ends = [client, server]
        for _ in range(10):
            for end, other in (ends, ends[::-1]):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(end.bio_read(65536))
        self.assertIsNotNone(client.get_finished())
        return b"".join(shown)

    def test_shown(self) -> None:
        """To a client that asks; with and without SNI, each name its own."""
        mine, its = Staple(response(), 1e12), Staple(response(leaf=credential(("b.example.org",)).certificate), 1e12)
        staples: dict[str, Staple | None] = {HOSTNAME: mine, "b.example.org": its, "c.example.org": None}
        self.assertEqual(self.handshake(staples), mine.der)
        self.assertEqual(self.handshake(staples, HOSTNAME), mine.der)
        self.assertEqual(self.handshake(staples, "b.example.org"), its.der)
        self.assertEqual(self.handshake(staples, "c.example.org"), b"")

    def test_not_shown_when_its_time_is_over(self) -> None:
        """Not even when nobody has looked at the file since."""
        self.assertEqual(self.handshake({HOSTNAME: Staple(response(), 1.0)}), b"")
