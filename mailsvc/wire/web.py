"""A small web server that only answers questions: no bodies, no banner, no list of requests in our log.

For the listeners that speak HTTP beside the mail protocols.  The hardest idea is what Twisted's server would do with a
body that nobody reads: any amount of it goes into a file.  So whoever sends one is cut off.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource
from twisted.web.server import Request, Site


class BodilessRequest(Request):
    """One that has no body."""

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)
        if length != 0:
            self.channel.forceAbortClient()

    def write(self, data: Any) -> None:
        # Whoever looks need not know what made this.
        self.responseHeaders.removeHeader(b"server")
        super().write(data)


def quiet_site(resource: IResource, clock: IReactorTime, seconds: float) -> Site:
    """The server of ``resource``; a connection that is silent for ``seconds`` is closed."""
    made = Site(resource, requestFactory=BodilessRequest, reactor=clock, timeout=int(seconds))
    # A line for each question of somebody who asks all the time says nothing to anybody.
    made.log = lambda request: None  # type: ignore[method-assign]
    made.displayTracebacks = False
    return made
