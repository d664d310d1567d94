"""Certificate signing requests (PKCS#10, RFC 2986): made for a public CA, and read when we are the CA.

A request that comes from elsewhere is only a wish. Its signature proves that who wrote it has the key; its
subjectAltName says which names are wanted; everything else in it (key usage, validity, a wish to be a CA) is
left to the CA, and `wanted_from` takes none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mailsvc.certkit.build import (
    LEAF_LIFETIME,
    NameProblem,
    Wanted,
    client_wanted,
    digest_for,
    first_name,
    general_name,
    server_wanted,
    subject_called,
)
from mailsvc.certkit.files import Source
from mailsvc.certkit.inspect import printable, weak_key
from mailsvc.certkit.keys import PrivateKey
from mailsvc.certkit.names import Names, names_in
from mailsvc.certkit.pem import blocks, what_else
from mailsvc.errors import MailsvcError


def make_request(key: PrivateKey, hostnames: Sequence[str]) -> x509.CertificateSigningRequest:
    """A request for a server certificate with exactly these names.

    Raises NameProblem, also for Ed25519, which no public CA signs (CA/Browser Baseline section 6.1.1.1).
    """
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        raise NameProblem("public CAs do not sign Ed25519 keys; take ecdsa-p256 or rsa-3072 for a request")
    if not hostnames:
        raise NameProblem("a request needs at least one name")
    names = list(dict.fromkeys(general_name(name) for name in hostnames))
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_called(first_name(names)))
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, digest_for(key))


def read_request(source: Source) -> x509.CertificateSigningRequest:
    """The one request in a file, PEM or DER, whose signature is right. Raises MailsvcError."""
    if source.data is None:
        raise MailsvcError(f"{source.path}: {source.problem}")
    found = [
        block for block in blocks(source.data) if block.label in ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    ]
    if len(found) > 1:
        raise MailsvcError(f"{source.path}: holds {len(found)} requests; give a file with one")
    if not found and source.data[:1] != b"\x30":
        raise MailsvcError(f"{source.path}: has no certificate request in it: it {what_else(source.data)}")
    try:
        if found:
            request = x509.load_pem_x509_csr(found[0].text)
        else:
            request = x509.load_der_x509_csr(source.data)
        names_of_request(request)
        right = request.is_signature_valid
    except Exception as error:  # ValueError mostly; a parser for files from anywhere has more in store
        raise MailsvcError(f"{source.path}: holds a request that is damaged; make it again") from error
    if not right:
        raise MailsvcError(f"{source.path}: the request's signature is wrong, so who sent it may not have the key")
    return request


def names_of_request(request: x509.CertificateSigningRequest) -> Names:
    """The names that are asked for; ValueError when they are malformed."""
    try:
        return names_in(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return Names()


def request_pem(request: x509.CertificateSigningRequest) -> bytes:
    """The request as a CA wants it: PEM."""
    return request.public_bytes(Encoding.PEM)


def wanted_from(
    request: x509.CertificateSigningRequest,
    *,
    client: str | None = None,
    hostnames: Sequence[str] = (),
    emails: Sequence[str] = (),
    lifetime: timedelta = LEAF_LIFETIME,
) -> Wanted:
    """What we would sign for a request: a server's certificate, or with `client` a client's of that name.

    Names given here stand instead of those asked for. Raises MailsvcError for a weak key or no usable name.
    """
    if weak := weak_key(request.public_key()):
        raise MailsvcError(f"the key of the request {weak}")
    asked = names_of_request(request)
    if not hostnames and not emails:
        hostnames = (*asked.hosts, *map(str, asked.addresses))
        emails = asked.emails
    if client is not None:
        return client_wanted(request.public_key(), client, emails, hostnames, lifetime)
    if not hostnames:
        label = ", ".join(
            printable(str(each.value)) for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        )
        raise NameProblem(
            f"the request ({label or 'without a name'}) asks for no host in its subjectAltName; "
            "say with --hostname which names the certificate shall cover"
        )
    return server_wanted(request.public_key(), hostnames, lifetime)
