"""Metrics: a registry per service, and a counter of RPC times that costs well under a microsecond."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from nanoclaw_core.addresses import host_and_port, is_loopback
from nanoclaw_core.errors import Kind, NanoclawError

M = TypeVar("M", Counter, Gauge, Histogram)

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets in seconds."""


class RpcTimes(Collector):
    """`nanoclaw_rpc_seconds{method,code}`: a histogram, whose count is the number of RPCs.

    Written from the event loop alone, read by the scraper's thread.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[float]] = {}

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Counts one RPC."""
        cell = self._cells.get((method, code))
        if cell is None:
            cell = self._cells[method, code] = [0.0] * (len(BOUNDS) + 2)
        cell[bisect_left(BOUNDS, seconds)] += 1
        cell[-1] += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What Prometheus asks for."""
        family = HistogramMetricFamily("nanoclaw_rpc_seconds", "time to answer an RPC", labels=["method", "code"])
        names = [*(str(bound) for bound in BOUNDS), "+Inf"]
        for labels, cell in list(self._cells.items()):
            *counts, total = cell
            buckets = list(zip(names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets=buckets, sum_value=total)
        return [family]


class Metrics:
    """The registry of one service; who asks for a metric of a name again gets the same one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc = RpcTimes()
        self.registry.register(self.rpc)
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only rises."""
        return self._once(Counter, name, lambda: Counter(name, help, labels, registry=self.registry))

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that rises and falls."""
        return self._once(Gauge, name, lambda: Gauge(name, help, labels, registry=self.registry))

    def histogram(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = BOUNDS,
    ) -> Histogram:
        """How often something took how long, in seconds."""
        return self._once(
            Histogram, name, lambda: Histogram(name, help, labels, registry=self.registry, buckets=buckets)
        )

    def _once(self, kind: type[M], name: str, make: Callable[[], M]) -> M:
        metric = self._made.get(name)
        if metric is None:
            metric = self._made[name] = make()
        if not isinstance(metric, kind):
            raise ValueError(f"{name} is already a {type(metric).__name__}")
        return metric

    def serve(self, address: str) -> tuple[int, Callable[[], None]]:
        """Serves the registry on `host:port`, loopback only; answers the port (0 takes a free one) and how to stop."""
        at = host_and_port(address)
        if at is None or not is_loopback(at[0]):
            raise NanoclawError(
                Kind.INVALID,
                "NOT_LOOPBACK",
                f"metrics address {address!r} is not a loopback host and port",
                next_step="use 127.0.0.1:port and a scraper on this machine",
            )
        try:
            server, thread = start_http_server(at[1], addr=at[0], registry=self.registry)
        except OSError as error:
            raise NanoclawError(
                Kind.UNAVAILABLE,
                "ADDRESS_IN_USE",
                f"metrics cannot be served on {address}: {error.strerror}",
                next_step="choose another port, or 0 for a free one",
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join(1.0)

        return server.server_port, stop
