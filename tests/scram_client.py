"""A SCRAM client for tests, after RFC 5802: with channel binding and an authzid, which the libraries here lack."""

from __future__ import annotations

import base64
import hashlib
import hmac


class ScramClient:
    """The client's side of one exchange; every message is bytes before base64."""

    def __init__(
        self,
        name: str,
        password: str,
        *,
        flag: bytes = b"n",
        binding: bytes = b"",
        authzid: str = "",
        nonce: bytes = b"rOprNGfwEbeRWgbNEkqO",
    ) -> None:
        self._password = password.encode()
        self._gs2 = flag + b"," + (b"a=" + _escaped(authzid) if authzid else b"") + b","
        self._bare = b"n=" + _escaped(name) + b",r=" + nonce
        self._binding = binding
        self._signature = b""

    @property
    def first(self) -> bytes:
        """The client-first-message."""
        return self._gs2 + self._bare

    def final(self, server_first: bytes) -> bytes:
        """The client-final-message."""
        fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(fields[b"s"]), int(fields[b"i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        bare = b"c=" + base64.b64encode(self._gs2 + self._binding) + b",r=" + fields[b"r"]
        message = b",".join((self._bare, server_first, bare))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return bare + b",p=" + base64.b64encode(proof)

    def believes(self, server_final: bytes) -> bool:
        """Whether the server has shown that it knows the password's verifier."""
        return server_final == b"v=" + base64.b64encode(self._signature)


def _escaped(name: str) -> bytes:
    return name.replace("=", "=3D").replace(",", "=2C").encode()
