"""Line ends between the wire and Unix, piece by piece: messages are CRLF here and LF in most files.

What a message's lines mean is left to others.  `ToCrlf` puts a CR before each LF that has none, `ToLf` takes it away
again; both remember the one octet that a cut between two pieces hides.

The hardest idea is what cannot be taken back.  CR CR LF would become CR LF, which reads as one line end afterwards: a
message that holds it has to be written with CRLF to stay what it is.  `ToLf.exact` says so, after the last piece.
"""

from __future__ import annotations


class ToCrlf:
    """LF to CRLF; a CRLF that is there already stays, and so does a CR alone."""

    def __init__(self) -> None:
        self._after_cr = False

    def feed(self, piece: bytes) -> bytes:
        """The next octets, converted."""
        if not piece:
            return b""
        converted = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self._after_cr and piece.startswith(b"\n"):
            converted = converted[1:]
        self._after_cr = piece.endswith(b"\r")
        return converted


class ToLf:
    """CRLF to LF; a CR alone stays.  `exact`: `ToCrlf` makes of the result what was fed, when that had no LF alone."""

    def __init__(self) -> None:
        self._held = b""
        self._before = b""
        self.exact = True

    def feed(self, piece: bytes) -> bytes:
        """The next octets, converted; a CR at the end waits for what follows."""
        joined = self._held + piece
        self._held = b"\r" if joined.endswith(b"\r") else b""
        ready = joined[: len(joined) - len(self._held)]
        if not ready:
            return b""
        if b"\r\r\n" in self._before + ready:
            self.exact = False
        self._before = ready[-1:]
        return ready.replace(b"\r\n", b"\n")

    def close(self) -> bytes:
        """What waited."""
        held, self._held = self._held, b""
        return held
