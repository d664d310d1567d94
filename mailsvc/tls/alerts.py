"""Refusing a peer's certificate in such a way that the peer hears why: the alerts of RFC 8446 section 6.2.

OpenSSL chooses the alert by the error that stands in its store context when the verify callback says no. pyOpenSSL
clears that error whenever a callback lets a certificate pass, and gives no way to set it, so that a refusal at the end
of the check, when all that is wrong has been recorded, would be ``internal_error`` (80): the other side looks for the
mistake with us. `verifying` sets it, around pyOpenSSL's own callback.

The hardest idea is where a refusal goes. An exception in a callback is kept by the *context* that the callback was set
on, and asked for at the context that the connection has: after SNI that is another one, and the exception of a refused
client would come up in the next connection of somebody else. So nothing is raised in a callback: the refusal is kept by
the connection (`JudgedConnection`), which raises it when its own handshake has failed.

What is wrong with it: it uses what pyOpenSSL does not document. Without that, refusals are what they were, but for the
alert; a test would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL.SSL import X509VerificationCodes as Code

from mailsvc.mail.channel import safe_text

OTHER: int = Code.ERR_DIFFERENT_CRL_SCOPE
"""certificate_unknown (46): one of the errors that OpenSSL has no better alert for."""

_BAD: int = Code.ERR_CERT_REJECTED

# OpenSSL's errors and their alerts. Of several findings the first of these is told: what the peer can do least about.
_ERRORS: dict[str, int] = {
    "revoked": Code.ERR_CERT_REVOKED,  # certificate_revoked (44)
    **dict.fromkeys(("unknown-ca", "self-signed", "incomplete-chain"), Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY),
    # bad_certificate (42), RFC 8446: "corrupt, contained signatures that did not verify correctly, etc."
    **dict.fromkeys(("malformed", "signature", "not-a-ca", "path-length", "extension", "name-constraints"), _BAD),
    **dict.fromkeys(("weak-key", "weak-signature", "no-names", "wrong-name"), _BAD),
    "purpose": Code.ERR_INVALID_PURPOSE,  # unsupported_certificate (43)
    # certificate_expired (45), RFC 8446: "has expired or is not currently valid"; OpenSSL has bad_certificate for that.
    **dict.fromkeys(("expired", "not-yet-valid"), Code.ERR_CERT_HAS_EXPIRED),
}

Check = Callable[[SSL.Connection, crypto.X509, int, int, bool], int]
"""What pyOpenSSL's verify callback is given; answers 0 to go on, or OpenSSL's error (`error_for`) to refuse."""


class JudgedConnection(SSL.Connection):
    """A connection whose handshake fails with ``refused`` when that is set."""

    refused: SSL.Error | None = None

    def do_handshake(self) -> None:
        """As pyOpenSSL's, but for the exception of a refusal of ours."""
        try:
            super().do_handshake()
        except SSL.Error:
            if self.refused is not None:
                raise self.refused from None
            raise


def error_for(kinds: Iterable[str]) -> int:
    """OpenSSL's error whose alert tells best what is wrong; ``kinds`` are those of `mailsvc.tls.chain`."""
    found = frozenset(kinds)
    return next((error for kind, error in _ERRORS.items() if kind in found), OTHER)


def verifying(context: SSL.Context, mode: int, check: Check) -> None:
    """Let ``check`` see each certificate of the peers of a fresh context's connections.

    What it raises refuses the certificate, too: it is a mistake of ours.
    """
    errors: list[int] = []

    def called(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
        try:
            error = check(connection, certificate, number, depth, bool(ok))
        except Exception as mistake:
            error = OTHER
            if isinstance(connection, JudgedConnection):
                text = f"the certificate could not be checked ({type(mistake).__name__}: {mistake})"
                connection.refused = SSL.Error([("mailsvc", "", safe_text(f"{text}; please report this mistake"))])
        if error:
            errors.append(error)
        return not error

    context.set_verify(mode, called)
    inside: Any = context
    library: Any = SSL
    try:
        helper, inner = inside._verify_helper, inside._verify_helper.callback
        set_error, set_verify = library._lib.X509_STORE_CTX_set_error, library._lib.SSL_CTX_set_verify

        def outer(ok: int, store: object) -> int:
            errors.clear()
            answer: int = inner(ok, store)
            if errors:
                set_error(store, errors[0])
            return answer

        # The helper lives as long as the context, and so must what OpenSSL calls.
        callback = library._ffi.callback("int (*)(int, X509_STORE_CTX *)", outer)
        set_verify(inside._context, mode, callback)
        helper.callback = callback
    except AttributeError:
        return  # another pyOpenSSL: the refusal holds, and its alert is internal_error
