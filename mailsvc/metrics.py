"""Numbers for Prometheus: an HTTP listener that is off by default, and never leaves this machine.

What is served is counted elsewhere: events by the journal, sessions and certificates by who has them; this module asks
when it is asked, so numbers that nobody wants cost nothing.  There are few on purpose: what a postmaster would set an
alarm on.  Each is named and explained in docs/monitoring.rst.

The hardest idea is what may not stand here.  Labels are kinds of events, and names of certificates; no address, user
or peer becomes a label, because a monitoring system keeps labels for ever and shows them to everybody.  And there is
no login, so the listener has to be a loopback address or a UNIX socket; `mailsvc.service` refuses anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from mailsvc import __version__
from mailsvc.certkit.inspect import printable
from mailsvc.tls import expiry
from mailsvc.tls.gate import Refusal
from mailsvc.tls.table import CredentialTable
from mailsvc.wire.web import quiet_site

REQUEST_SECONDS = 30.0


class Certificates(Protocol):
    """What is known of the certificates; `mailsvc.tls.reload.Reloader` fits it."""

    @property
    def table(self) -> CredentialTable:
        """Those in use."""

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What is not taken at present."""

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How looks at them ended, and how often."""

    @property
    def last_change(self) -> float | None:
        """When others were taken into use, in seconds since the epoch."""


class Numbers(Collector):
    """What the service knows of itself.

    ``happened`` counts events by their kind since the start, ``sessions`` tells how many are open.
    """

    def __init__(self, happened: Mapping[str, int], sessions: Callable[[], int], certificates: Certificates) -> None:
        self._happened = happened
        self._sessions = sessions
        self._certificates = certificates

    def collect(self) -> Iterable[Metric]:
        """The numbers as they are now (prometheus-client's interface)."""
        yield InfoMetricFamily("mailsvc", "The program.", {"version": __version__})
        yield GaugeMetricFamily("mailsvc_sessions", "Sessions that are open.", float(self._sessions()))
        events = CounterMetricFamily("mailsvc_events", "What happened since the start.", labels=["kind"])
        for kind, count in sorted(self._happened.items()):
            events.add_metric([kind], count)
        yield events
        yield from self._about_certificates()

    def _about_certificates(self) -> Iterable[Metric]:
        reloader = self._certificates
        ends = GaugeMetricFamily(
            "mailsvc_certificate_expiry_timestamp_seconds", "When a certificate in use ends.", labels=["name", "source"]
        )
        for each in reloader.table.credentials:
            ends.add_metric([printable(each.name), printable(each.origin)], expiry.ends(each).timestamp())
        yield ends
        refused = GaugeMetricFamily(
            "mailsvc_certificate_refused", "1 for a new certificate that is not taken.", labels=["name", "source"]
        )
        for name, origin in sorted({(each.name, each.origin) for each in reloader.refusals}):
            refused.add_metric([printable(name), printable(origin)], 1)
        yield refused
        looks = CounterMetricFamily(
            "mailsvc_certificate_reloads", "Looks at the certificates that came to something.", labels=["result"]
        )
        for result, count in sorted(reloader.outcomes.items()):
            looks.add_metric([result], count)
        yield looks
        if reloader.last_change is not None:
            yield GaugeMetricFamily(
                "mailsvc_certificate_last_change_timestamp_seconds",
                "When other certificates were taken into use.",
                reloader.last_change,
            )


def site(numbers: Numbers, clock: IReactorTime) -> Site:
    """The HTTP server: GET /metrics and nothing else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(numbers)
    return quiet_site(_Metrics(registry), clock, REQUEST_SECONDS)


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def render(self, request: Request) -> bytes:
        """The numbers as text; without a word for everything else."""
        if request.path != b"/metrics":
            request.setResponseCode(404)
            return b""
        if request.method not in (b"GET", b"HEAD"):
            request.setResponseCode(405)
            request.setHeader(b"allow", b"GET, HEAD")
            return b""
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode("ascii"))
        return generate_latest(self._registry)
