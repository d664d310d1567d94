"""Opening the listeners: what is said of a port that cannot be had."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.lifecycle import Listener, _open


class _Refusing:
    """An endpoint that cannot listen, for the reason with this number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def listen(self, factory: Any) -> Deferred[Any]:
        return fail(CannotListenError("127.0.0.1", 25, OSError(self._number, f"Reason {self._number}")))


class Sentences(SynchronousTestCase):
    def said(self, number: int) -> str:
        endpoint: Any = _Refusing(number)
        sentence = _open(Listener("smtp", "tcp:25", endpoint, Factory()))
        assert sentence is not None
        self.assertTrue(sentence.startswith(f"cannot listen on tcp:25 for smtp: reason {number}; "), sentence)
        self.assertTrue(sentence.endswith("choose another endpoint with --smtp"), sentence)
        return sentence

    def test_the_cure_fits_the_reason(self) -> None:
        """Only where a program has the port is it to be stopped; a low port needs a right, an address this machine."""
        self.assertIn("stop the program that uses it", self.said(errno.EADDRINUSE))
        self.assertIn("CAP_NET_BIND_SERVICE", self.said(errno.EACCES))
        self.assertIn("this machine has no such address", self.said(errno.EADDRNOTAVAIL))
        for number in (errno.EACCES, errno.EADDRNOTAVAIL, errno.ENOENT):
            self.assertNotIn("stop the program", self.said(number))
