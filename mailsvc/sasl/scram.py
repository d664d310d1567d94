"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side (RFC 5802, RFC 7677, RFC 9266).

Why not a library: the only one for Python that is kept, scramp, takes neither tls-exporter, which is the binding of
TLS 1.3, nor an authzid, and asks for the verifier in a callback that cannot wait for a database.  It is used for what
it does well, making verifiers with SASLprep (`make_verifier`), and the tests let its client log in here.

The hardest idea: one salt per name, not per password (`salt_of`).  The salt is an HMAC of the name under a key of the
database.  It is the same for names that exist and names that do not, before and after a change of password, with and
without a verifier, so that asking for it tells nothing; and since all passwords of an account share it, one `Proof` can
be held against each of them: that is how app passwords work with SCRAM, which has room for one salt in its answer.
The price: somebody who asks beforehand can compute guesses beforehand, for the day on which he steals the verifiers.

What is wrong with it: a verifier is PBKDF2, and cheaper to guess by than the argon2id hash beside it.  `ITERATIONS` is
the most that Cyrus SASL, and with it KMail and some others, accept from a server (0x10000, about 15 ms of a core and so
some tenth of a second of a phone, which is what RFC 7677 section 4 asks for); OWASP would have 600,000.  Whoever
weighs a stolen database more than a stolen connection sets ``accounts.scram = false``: no verifiers are made then.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

import scramp  # type: ignore[import-untyped]

from mailsvc.errors import MailsvcError
from mailsvc.sasl.base64 import decode
from mailsvc.sasl.exchange import BindingRefused, Challenge, MalformedResponse, Proven, Steps, VerifierWanted

ITERATIONS = 0x10000
"""PBKDF2 iterations of new verifiers, and of the answer for names without one."""

LONGEST_MESSAGE = 4096
"""Octets of a message of the client; ours are shorter than 100, plus the client's nonce."""

BINDING = "tls-exporter"

_FIRST = re.compile(
    rb"(?P<gs2>(?P<flag>n|y|p=(?P<binding>[A-Za-z0-9.-]{1,64})),(?:a=(?P<authzid>[^,\0]{1,1024}))?,)"
    rb"(?P<bare>(?P<mandatory>m=[^,\0]*,)?n=(?P<name>[^,\0]{1,1024}),r=(?P<nonce>[!-+\--~]{1,1024})"
    rb"(?:,[A-Za-z]=[^,\0]+)*)\Z"
)
_FINAL = re.compile(
    rb"(?P<bare>c=(?P<binding>[A-Za-z0-9+/=]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*?),p=(?P<proof>[A-Za-z0-9+/=]+)\Z"
)
_ESCAPE = re.compile(rb"=(?!2C|3D)")
_STORED = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{3,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)\Z")


class NoVerifier(MailsvcError):
    """There can be no verifier of this password: SASLprep (RFC 4013) does not know how to write it."""


@dataclass(frozen=True, slots=True)
class Salting:
    """What a client must know to turn a password into a proof."""

    salt: bytes
    iterations: int


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored of a password (RFC 5802 section 3): enough to check a proof, not enough to make one."""

    salting: Salting
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def to_text(self) -> str:
        """As RFC 5803 writes it, for the database."""
        salt, stored, server = (
            base64.b64encode(part).decode("ascii") for part in (self.salting.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.salting.iterations}:{salt}${stored}:{server}"


def parse_verifier(text: str) -> Verifier | None:
    """The verifier that `Verifier.to_text` wrote; None for anything else."""
    found = _STORED.match(text)
    if found is None:
        return None
    try:
        salt, stored, server = (decode(part.encode("ascii")) for part in found.group(2, 3, 4))
    except MalformedResponse:
        return None
    if len(stored) != 32 or len(server) != 32:
        return None
    return Verifier(Salting(salt, int(found[1])), stored, server)


def salt_of(key: bytes, name: str) -> bytes:
    """The salt of an account's key (`Address.key`), or of any other text that came as a name; 16 octets."""
    return hmac.digest(key, b"scram-salt\0" + name.encode("utf-8", "surrogatepass"), "sha256")[:16]


def make_verifier(password: str, salting: Salting) -> Verifier:
    """The verifier of a password; takes milliseconds.  Raises `NoVerifier`."""
    made = _keys(password, salting)
    # SASLprep drops some characters.  Of a password of nothing else it leaves nothing, and that anybody can guess.
    if not password or (not password.isascii() and hmac.compare_digest(made.stored_key, _keys("", salting).stored_key)):
        raise NoVerifier("SASLprep leaves nothing of this password; PLAIN can carry it")
    return made


def _keys(password: str, salting: Salting) -> Verifier:
    try:
        _, stored_key, server_key, _ = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(
            password, iteration_count=salting.iterations, salt=salting.salt
        )
    except scramp.ScramException:
        raise NoVerifier("the password has characters that SCRAM cannot write; PLAIN can") from None
    return Verifier(salting, stored_key, server_key)


@dataclass(frozen=True, slots=True)
class Proof:
    """A client's proof of a password; the answer to it is the `Verifier` that it fits.

    ``bound``: the client saw the channel that we see.  ``authzid``: whom it wants to act as, or b"".
    """

    username: bytes
    authzid: bytes
    bound: bool
    message: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    def fits(self, verifier: Verifier) -> bool:
        """Whether it was made with the password behind ``verifier``; the same work for every verifier."""
        signature = hmac.digest(verifier.stored_key, self.message, "sha256")
        # RFC 5802 section 3: ClientKey = ClientProof XOR ClientSignature, and H(ClientKey) = StoredKey
        client_key = bytes(a ^ b for a, b in zip(self.proof, signature, strict=True))
        right = hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)
        return right and self.bound


def scram(nonce: str, binding: bytes | None, *, plus: bool) -> Steps:
    """The exchange.  ``binding``: the channel's tls-exporter data, None where PLUS is not offered."""
    first = _first(_bounded((yield Challenge(b""))))
    _check_binding(first["flag"], first["binding"], offered=binding is not None, plus=plus)
    if first["mandatory"] is not None:
        raise MalformedResponse("SCRAM: an extension is mandatory that is not known here")
    username = _unescaped(first["name"])
    authzid = _unescaped(first["authzid"]) if first["authzid"] is not None else b""
    salting: Salting = yield VerifierWanted(username)

    whole_nonce = first["nonce"] + nonce.encode("ascii")
    salt = base64.b64encode(salting.salt)
    server_first = b"r=%s,s=%s,i=%d" % (whole_nonce, salt, salting.iterations)
    final = _FINAL.match(_bounded((yield Challenge(server_first))))
    if final is None:
        raise MalformedResponse("SCRAM: the client's final message is malformed")
    proof, claimed = decode(final["proof"]), decode(final["binding"])
    if len(proof) != 32 or not hmac.compare_digest(final["nonce"], whole_nonce):
        raise MalformedResponse("SCRAM: the client's final message does not answer ours")
    seen = first["gs2"] + (binding if plus and binding is not None else b"")
    message = b",".join((first["bare"], server_first, final["bare"]))
    verifier: Verifier = yield Proof(username, authzid, hmac.compare_digest(claimed, seen), message, proof)

    signature = hmac.digest(verifier.server_key, message, "sha256")
    last = yield Challenge(b"v=" + base64.b64encode(signature))
    if last:
        raise MalformedResponse("SCRAM: nothing may follow but an empty response")
    yield Proven()


def _first(message: bytes) -> re.Match[bytes]:
    found = _FIRST.match(message)
    if found is None:
        raise MalformedResponse("SCRAM: the client's first message is malformed")
    return found


def _check_binding(flag: bytes, name: bytes | None, *, offered: bool, plus: bool) -> None:
    """RFC 5802 section 6: the flag tells whether somebody in between has changed our list of mechanisms."""
    if plus and name is None:
        raise MalformedResponse("SCRAM: the PLUS mechanism wants channel binding")
    if not plus and name is not None:
        raise MalformedResponse("SCRAM: channel binding wants the PLUS mechanism")
    if flag == b"y" and offered:
        raise BindingRefused(
            "the client says that this server offers no channel binding, and it does;"
            " somebody in between may have changed the list of mechanisms"
        )
    if name is not None and name.decode("ascii") != BINDING:
        raise BindingRefused(f"the only channel binding here is {BINDING}")


def _bounded(message: bytes) -> bytes:
    if len(message) > LONGEST_MESSAGE:
        raise MalformedResponse(f"SCRAM: a message is longer than {LONGEST_MESSAGE} octets")
    return message


def _unescaped(name: bytes) -> bytes:
    """RFC 5802 section 5.1: ``=2C`` is a comma, ``=3D`` an equals sign, and no other ``=`` stands there."""
    if _ESCAPE.search(name):
        raise MalformedResponse("SCRAM: an equals sign in the name is not escaped")
    return name.replace(b"=2C", b",").replace(b"=3D", b"=")
