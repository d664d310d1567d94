"""Logging in at another server: the client's side of SASL (RFC 4422) for SMTP AUTH (RFC 4954).

Pure, like the server's side: a mechanism is a generator that yields the client's responses and is sent the server's
challenges.  How lines are framed is `mailsvc.relay.dialogue`'s.  That no secret goes over a channel in clear is decided
there, too; which mechanism is the best that both know is decided here (`choices`).

The hardest idea is that the server must prove itself as well.  SCRAM's last message shows that the server knows our
password's verifier (RFC 5802 section 3), and a 235 that comes without it is somebody else's: `finished` tells whether a
mechanism may be believed to be over.  And a server chooses how many rounds of hashing we do, so there is a limit: one
that asks for a billion would stop everything here (RFC 5802 section 9), one that asks for ten wants to guess.

That a server refuses a proof is no reason to tell it the password: no login goes on from SCRAM to PLAIN by itself.  A
server that has no SCRAM secret for an account says 432 4.7.12 (RFC 4954 section 6), and then PLAIN is what it asks for;
one that says 535 instead may be a wrong password, or a server that would like to have it.  The postmaster, who knows,
names the mechanisms (``allowed``); so he can also rule PLAIN out where SCRAM is known to work.

XOAUTH2 is Google's and Microsoft's, not an RFC; it is here because both take nothing else from programs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field

import scramp  # type: ignore[import-untyped]
import scramp.utils  # type: ignore[import-untyped]

from mailsvc.errors import MailsvcError
from mailsvc.sasl.base64 import decode
from mailsvc.sasl.exchange import MalformedResponse

LEAST_ROUNDS, MOST_ROUNDS = 4096, 1_000_000
"""Iterations of SCRAM that are taken: RFC 7677 section 4 has the lower end; a million is half a second."""

LONGEST_CHALLENGE = 8192
"""Octets of a challenge, decoded."""

BINDING = "tls-exporter"

PASSWORD_MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
"""Those that a password is enough for, the best first."""


class LoginFailed(MailsvcError):
    """The exchange cannot go on; the message has no secret in it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Who we are at a server.

    ``password`` for PLAIN, LOGIN and SCRAM, ``token`` (OAuth 2.0 access token) for XOAUTH2; "" for none.
    ``certificate``: the TLS certificate that we show is the login (EXTERNAL).  ``authzid``: whom to act as, or "".
    """

    username: str
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    certificate: bool = False
    authzid: str = ""

    def __post_init__(self) -> None:
        for text in (self.username, self.password, self.token, self.authzid):
            if "\0" in text:
                raise LoginFailed("a name or password for a login cannot hold a NUL character")


Exchange = Generator[bytes, bytes, None]
"""Yields the client's responses; is sent the server's challenges; returns when it has nothing to say any more."""


def choices(
    offered: Collection[str], secret: Secret, *, binding: bytes | None, allowed: Collection[str] = ()
) -> tuple[str, ...]:
    """The mechanisms that both sides know and ``secret`` is enough for, the best first.

    ``offered``: in upper case.  ``binding``: the channel's tls-exporter data (RFC 9266), None when it has none.
    ``allowed``: those that may be spoken at all, () for any.
    """
    return tuple(name for name in _usable(secret, binding) if name in offered and (not allowed or name in allowed))


def _usable(secret: Secret, binding: bytes | None) -> Iterator[str]:
    if secret.certificate:
        yield "EXTERNAL"
    if secret.password and not secret.authzid:  # an authzid is PLAIN's and EXTERNAL's here
        if binding is not None:
            yield "SCRAM-SHA-256-PLUS"
        yield "SCRAM-SHA-256"
    if secret.token:
        yield "XOAUTH2"
    if secret.password:
        yield "PLAIN"
        if not secret.authzid:
            yield "LOGIN"


class Login:
    """One exchange: `first` is the initial response (None: the server speaks first), `answer` each further one."""

    def __init__(
        self,
        mechanism: str,
        secret: Secret,
        *,
        binding: bytes | None = None,
        nonce: str | None = None,
    ) -> None:
        """``mechanism``: one of `choices`.  ``nonce``: fresh, for SCRAM; None makes one.

        Raises `LoginFailed` when the secret cannot be written for this mechanism.
        """
        self._state = _State()
        self._steps = _exchange(mechanism, secret, binding, nonce, self._state)
        self._waits = mechanism == "LOGIN"
        self.first: bytes | None = None
        if self._waits:
            next(self._steps)
        else:
            self.first = next(self._steps)

    @property
    def finished(self) -> bool:
        """Whether a 235 now may be believed."""
        return self._state.finished

    def answer(self, challenge: bytes) -> bytes:
        """The response to a challenge.  Raises `LoginFailed`; then the exchange is to be cancelled with ``*``."""
        if len(challenge) > LONGEST_CHALLENGE:
            raise LoginFailed("the server's challenge is too long")
        try:
            return self._steps.send(challenge)
        except StopIteration:
            raise LoginFailed("the server asks for more than the mechanism has") from None


@dataclass(slots=True)
class _State:
    finished: bool = False


def _exchange(mechanism: str, secret: Secret, binding: bytes | None, nonce: str | None, state: _State) -> Exchange:
    match mechanism:
        case "PLAIN":
            return _plain(secret, state)
        case "LOGIN":
            return _login(secret, state)
        case "EXTERNAL":
            return _external(secret, state)
        case "XOAUTH2":
            return _xoauth2(secret, state)
        case "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS":
            return _scram(mechanism, secret, binding, nonce, state)
    raise LoginFailed(f"there is no mechanism {mechanism[:40]!a}")


def _plain(secret: Secret, state: _State) -> Exchange:
    state.finished = True
    challenge = yield "\0".join((secret.authzid, secret.username, secret.password)).encode()
    del challenge


def _login(secret: Secret, state: _State) -> Exchange:
    yield b""  # the server asks for the name first; what it asks is written in many ways, and never looked at
    yield secret.username.encode()
    state.finished = True
    yield secret.password.encode()


def _external(secret: Secret, state: _State) -> Exchange:
    state.finished = True
    yield secret.authzid.encode()


def _xoauth2(secret: Secret, state: _State) -> Exchange:
    if "\x01" in secret.username + secret.token:
        raise LoginFailed("a name or token for XOAUTH2 cannot hold a control character")
    state.finished = True
    yield f"user={secret.username}\x01auth=Bearer {secret.token}\x01\x01".encode()
    # The challenge is the server's reason in JSON; an empty response asks for the reply that refuses.
    state.finished = False
    yield b""


def _scram(mechanism: str, secret: Secret, binding: bytes | None, nonce: str | None, state: _State) -> Exchange:
    plus = mechanism.endswith("-PLUS")
    # RFC 5802 section 6: "y" says that we could bind and the server does not offer it, "n" that we cannot.
    flag = f"p={BINDING}" if plus else "n" if binding is None else "y"
    gs2 = f"{flag},,".encode()
    own_nonce = (nonce or secrets.token_urlsafe(24)).encode("ascii")
    bare = b"n=%s,r=%s" % (_prepared(secret.username).replace(b"=", b"=3D").replace(b",", b"=2C"), own_nonce)
    first = yield gs2 + bare

    match = _SERVER_FIRST.match(first)
    if match is None:
        raise LoginFailed("SCRAM: the server's first message is malformed")
    whole_nonce, rounds = match["nonce"], int(match["rounds"])
    if not whole_nonce.startswith(own_nonce) or whole_nonce == own_nonce:
        raise LoginFailed("SCRAM: the server's nonce does not continue ours")
    if not LEAST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise LoginFailed(
            f"SCRAM: the server wants {rounds} rounds of hashing; {LEAST_ROUNDS} to {MOST_ROUNDS} are taken"
        )
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(secret.password), _decoded(match["salt"]), rounds)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    seen = gs2 + (binding if plus and binding is not None else b"")
    without_proof = b"c=%s,r=%s" % (base64.b64encode(seen), whole_nonce)
    message = b",".join((bare, first, without_proof))
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    final = yield without_proof + b",p=" + base64.b64encode(proof)

    answer = _SERVER_FINAL.match(final)
    if answer is None:
        raise LoginFailed("SCRAM: the server's final message is malformed, or an error")
    expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    if not hmac.compare_digest(_decoded(answer["signature"]), expected):
        raise LoginFailed("SCRAM: the server does not know the password itself; it is not the one that is meant")
    state.finished = True
    yield b""


_SERVER_FIRST = re.compile(
    rb"r=(?P<nonce>[!-+\--~]{1,1024}),s=(?P<salt>[A-Za-z0-9+/=]{1,1024}),i=(?P<rounds>[1-9][0-9]{0,9})(?:,[A-Za-z]=[^,\0]+)*\Z"
)
_SERVER_FINAL = re.compile(rb"v=(?P<signature>[A-Za-z0-9+/=]{1,1024})(?:,[A-Za-z]=[^,\0]+)*\Z")


def _prepared(text: str) -> bytes:
    """As SASLprep (RFC 4013) wants names and passwords."""
    try:
        prepared: str = scramp.utils.saslprep(text)
    except scramp.ScramException:
        raise LoginFailed("SCRAM: the name or password has characters that SCRAM cannot write") from None
    if not prepared:
        raise LoginFailed("SCRAM: SASLprep leaves nothing of the name or password")
    return prepared.encode("utf-8")


def _decoded(text: bytes) -> bytes:
    try:
        return decode(text)
    except MalformedResponse:
        raise LoginFailed("SCRAM: the server's message is malformed") from None
