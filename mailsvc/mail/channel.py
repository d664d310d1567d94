"""What is known about the channel that a command or a message came through.

Trace headers, events and replies want to say "TLSv1.3 with cipher ..." without holding an OpenSSL object, so
the facts are copied once, after the handshake, into a value. Measuring them is left to
`mailsvc.tls.server.tls_facts`, wording them to whoever prints. The rule behind the class: a field holds what
the handshake *did* negotiate, never what was configured or asked for (RFC 8314 section 4.3 and RFC 3848 want
the trace to be true).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TLSFacts:
    """The outcome of one finished TLS handshake.

    `version` is OpenSSL's name ("TLSv1.3"), `cipher` the suite ("TLS_AES_256_GCM_SHA384"), `bits` the
    strength of its symmetric key. `group` is the key agreement ("X25519MLKEM768"), None when OpenSSL does not
    say (a resumed TLS 1.2 session). `server_name` is the host name that the client asked for (SNI, RFC 6066
    section 3), in lower case, and None when it named none or something that is no host name: whatever stands
    here is safe to write into a header or a log.
    """

    version: str
    cipher: str
    bits: int
    group: str | None
    server_name: str | None
