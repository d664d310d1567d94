"""Whom a client's certificate may speak for: rules on values, without a database.

There are two ways. A key may be *known*: its fingerprint stands in a table of ours, and then it does not matter who
signed the certificate around it, because the handshake has proved that the client holds the key (RFC 8446 section
4.4.3). Or a CA may *vouch*: the chain was verified, it ends in a CA that the postmaster has named for this, and the
mail addresses in the subjectAltName are believed.

The hardest idea is what a known key forgives. Only that nobody we trust has signed its certificate (it is self-signed,
or of a CA that is none of our roots). Whatever else is wrong counts: an expired certificate, one that its CA has
revoked, one for another purpose, a weak key. But whoever has the key can put a certificate of his own around it, and no
CA can revoke that: so where revocation lists are set nothing is forgiven, or a stolen key that its CA has revoked would
come back self-signed. And a resumed session shows nothing at all.
"""

from __future__ import annotations

from mailsvc.mail.channel import LIST_LIMIT, ClientCertificate, Failed, Verified

UNVOUCHED = frozenset({"unknown-ca", "self-signed", "incomplete-chain"})
"""Findings (kinds of `mailsvc.tls.chain`) that say only that nobody whom we trust has signed the certificate."""


def proven_key(client: ClientCertificate) -> str:
    """The fingerprint (SPKI SHA-256) of the key that the client has shown and that may stand for it; "" for none."""
    match client:
        case Verified(spki=spki):
            return spki
        case Failed(spki=spki, kinds=kinds, lists=False) if (
            kinds and UNVOUCHED.issuperset(kinds) and len(kinds) < LIST_LIMIT
        ):
            # A list that was cut may have lost the one that counts.
            return spki
    return ""


def vouched_addresses(client: ClientCertificate, vouching: frozenset[str]) -> tuple[str, ...]:
    """The mail addresses that a CA of ``vouching`` (SPKI SHA-256 each) says are the client's."""
    if isinstance(client, Verified) and client.anchor and client.anchor in vouching:
        return client.emails
    return ()
