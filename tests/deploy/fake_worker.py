"""A /metrics page with every metric of the contract, for tests of what reads it. Counters rise with every scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from streams.evidence import UNSAMPLED
from streams.signals.names import SIGNALS
from tests.deploy.contract import METRICS

Series = tuple[tuple[str, ...], float]

FEATURES = ("age", "amount", "country")
PROXIES = (("fake", "score_drift"), ("fake", "total"))
SEGMENTS = ("", "tier=gold", "tier=other")


def series(metric: str, scrape: int) -> Iterator[Series]:
    """Label values, in the contract's order, and a value."""
    match metric:
        case "foreshock_signal_value" | "foreshock_signal_threshold" | "foreshock_signal_breached":
            number = {"foreshock_signal_value": 0.1, "foreshock_signal_threshold": 0.2}.get(metric, 0.0)
            yield from ((labels, number) for labels in signals())
        case "foreshock_window_events" | "foreshock_window_errors" | "foreshock_window_labels":
            yield from ((("fake", "", segment), 100.0) for segment in SEGMENTS)
        case "foreshock_action_firing":
            yield ("fake", "1", "", "values-missing", "data_incident", "critical", "2"), 1.0
        case "foreshock_books_records_total":
            yield from ((("fake", outcome), 10.0 * scrape) for outcome in ("read", "counted"))
            yield from ((("fake", outcome), 0.0) for outcome in ("late", "rejected", "duplicate"))
        case "foreshock_decisions_total":
            yield from ((("fake", reason), float(scrape)) for reason in ("quiet", "fired"))
        case "foreshock_actions_total":
            yield from ((("fake", "data_incident", state), float(scrape)) for state in ("firing", "resolved"))
        case "foreshock_ledger_alarms":
            yield from (((*proxy, verdict), 1.0) for proxy in PROXIES for verdict in ("confirmed", "refuted"))
        case "foreshock_ledger_episodes":
            yield from (((*proxy, outcome), 1.0) for proxy in PROXIES for outcome in ("caught", "late", "missed"))
        case "foreshock_ledger_precision_ratio" | "foreshock_ledger_recall_ratio":
            yield from (((*proxy, bound), 0.5) for proxy in PROXIES for bound in ("value", "low", "high"))
        case "foreshock_ledger_lead_seconds":
            yield from (((*proxy, quartile), 60.0) for proxy in PROXIES for quartile in ("0.25", "0.5", "0.75"))
        case "foreshock_rule_actions":
            yield from ((("fake", "values-missing", status), 1.0) for status in ("published", "acted", "dismissed"))
        case _:
            values = {"model": "fake", "topic": "inference", "partition": "0", "stage": "sketch"}
            yield tuple(values.get(label, "0") for label in METRICS[metric]), float(scrape)


def signals() -> Iterator[tuple[str, ...]]:
    for signal in SIGNALS.values():
        whole = signal.name in UNSAMPLED or signal.name == "label_unmatched_rate" or signal.family == "proxy"
        version = "" if whole else "1"
        for segment in SEGMENTS:
            for feature in FEATURES if signal.per_column else ("",):
                yield "fake", version, segment, signal.family, signal.name, feature


class _Page:
    def __init__(self, without: frozenset[str]) -> None:
        self.without = without
        self.scrapes = count(1)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        scrape = next(self.scrapes)
        for metric in METRICS.keys() - self.without:
            family = GaugeMetricFamily(metric, "made up", labels=METRICS[metric])
            for labels, number in series(metric, scrape):
                family.add_metric(labels, number)
            yield family


@contextmanager
def fake_worker(*without: str) -> Iterator[str]:
    """Serves the page, less some metrics; yields its address."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(frozenset(without)))  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(generate_latest(registry))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
