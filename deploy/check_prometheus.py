"""A running worker → whether a real Prometheus, with our own configuration, has data for every query of the dashboard.

    python deploy/check_prometheus.py http://127.0.0.1:6066

It runs Debian's `prometheus` on loopback with a copy of deploy/prometheus whose target is the worker, waits for two
scrapes, puts every query of deploy/grafana/dashboards to it as Grafana would, with variables resolved as Grafana
resolves them, and tells how many series came back. A query without any is tried again until the patience is at its
end. Annotations may be empty, and, unless --strict, so may panels that have a word for it ("Nothing fires."). Rules
must evaluate. Exit code 1 when a query fails or stays without data.

Prometheus is installed with apt-get when it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CONFIG = HERE / "prometheus" / "prometheus.yml"
RULES = HERE / "prometheus" / "rules.yml"
DASHBOARDS = HERE / "grafana" / "dashboards"

STEP_S = 5
READY_WITHIN_S = 30.0
SCRAPED_WITHIN_S = 30.0
RULES_WITHIN_S = 45.0
PATIENCE_S = 30.0
BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m"}

Json = dict[str, Any]


class Failed(Exception):
    """One line that a person can act on."""


# --- The dashboard


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a dashboard, as it stands there. `may_be_empty`: no data is an answer."""

    place: str
    expr: str
    instant: bool
    may_be_empty: bool = False
    is_annotation: bool = False


def read_dashboard(file: Path) -> Json:
    dashboard: Json = json.loads(file.read_text(encoding="utf-8"))
    return dashboard


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels, rows too, those inside collapsed rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(dashboard: Json) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            place = f"{panel['id']:>2} {panel['title']} [{target['refId']}]"
            has_word = "noValue" in panel["fieldConfig"]["defaults"]
            yield Query(place, target["expr"], bool(target.get("instant")), may_be_empty=has_word)
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield Query(f"   annotation: {annotation['name']}", annotation["expr"], False, True, is_annotation=True)


def label_query(variable: Json) -> tuple[str, str]:
    """The series and the label of a variable's `label_values(series, label)`."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    if found is None:
        raise Failed(f"variable {variable['name']}: {variable['query']['query']} is not label_values(series, label)")
    return found[1], found[2]


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """The query with its variables replaced. KeyError for one that does not exist."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], expr)


# --- Prometheus


class Prometheus:
    """A Prometheus of our own on loopback that scrapes one worker."""

    def __init__(self, worker: str, folder: Path) -> None:
        self.worker = worker
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "prometheus.log"
        rendered(worker, folder)
        command = [
            tool("prometheus"),
            f"--config.file={folder / CONFIG.name}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def wait_ready(self) -> None:
        for _ in until(READY_WITHIN_S, 0.2):
            if self.process.poll() is not None:
                raise Failed(f"prometheus ended: {self.log.read_text(errors='replace').strip()[-500:]}")
            with contextlib.suppress(OSError):
                fetch(f"{self.url}/-/ready")
                return
        raise Failed(f"prometheus is not ready after {READY_WITHIN_S:.0f} s")

    def wait_scraped(self, times: int = 2) -> None:
        for _ in until(SCRAPED_WITHIN_S, 1.0):
            found = self.query("sum_over_time(up[5m])")
            if found and float(found[0]["value"][1]) >= times:
                return
        target = self.ask("targets")["activeTargets"][0]
        raise Failed(f"{target['scrapeUrl']} was not scraped {times} times: {target['lastError'] or 'no error'}")

    def query(self, expr: str) -> list[Json]:
        found: list[Json] = self.ask("query", query=expr)["result"]
        return found

    def query_range(self, expr: str, since_s: float) -> list[Json]:
        end_s = time.time()
        start_s = end_s - STEP_S * math.ceil((end_s - since_s) / STEP_S)  # the last step is now
        found: list[Json] = self.ask("query_range", query=expr, start=start_s, end=end_s, step=STEP_S)["result"]
        return found

    def label_values(self, series: str, label: str) -> list[str]:
        found: list[str] = self.ask(f"label/{label}/values", **{"match[]": series})
        return found

    def rules(self) -> list[Json]:
        """All rules, once each has been evaluated."""
        rules: list[Json] = []
        for _ in until(RULES_WITHIN_S, 1.0):
            rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
            if rules and all(rule["health"] != "unknown" for rule in rules):
                break
        return rules

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of the HTTP API."""
        text = urllib.parse.urlencode(parameters)
        try:
            return json.loads(fetch(f"{self.url}/api/v1/{path}?{text}"))["data"]
        except urllib.error.HTTPError as error:
            raise Failed(json.loads(error.read())["error"]) from None
        except OSError as error:
            raise Failed(f"prometheus does not answer: {error}") from None


def rendered(worker: str, folder: Path) -> None:
    """Our configuration in a folder, with the worker in place of the target."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    address = urllib.parse.urlsplit(worker)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise Failed(f"{worker!r} is no address of a worker: http://host:port is one")
    job |= {"scheme": address.scheme, "static_configs": [{"targets": [address.netloc]}]}
    (folder / CONFIG.name).write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(RULES, folder)


def tool(name: str, package: str = "prometheus") -> str:
    """Where a program of Debian's package is; installs the package when there is none."""
    found = shutil.which(name)
    if found is None and shutil.which("apt-get"):
        print(f"installing the package {package} with apt-get …", file=sys.stderr)
        for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *step], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found = shutil.which(name)
    if found is None:
        raise Failed(f"no {name} on the PATH (Debian: apt-get install {package})")
    return found


def promtool(*arguments: str) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"promtool {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip()}")


def fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(seconds: float, pause_s: float) -> Iterator[None]:
    """Once at least, then again after every pause until the time is over."""
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(pause_s)
        yield


# --- The check


def variables(prometheus: Prometheus, dashboard: Json, patience_s: float) -> dict[str, str]:
    """What Grafana puts in on a first visit: "All" where there is one, else the first value."""
    values = dict(BUILT_IN)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        series, label = label_query(variable)
        found: list[str] = []
        for _ in until(patience_s, STEP_S):
            found = sorted(prometheus.label_values(substituted(series, values), label))
            if found:
                break
        else:
            raise Failed(f"variable {variable['name']}: no series of {series} has a label {label}")
        print(f"${variable['name']}: {', '.join(found)}")
        values[variable["name"]] = variable["allValue"] if variable["includeAll"] else found[0]
    return values


def asked(prometheus: Prometheus, query: Query, values: Mapping[str, str], began: float) -> str:
    """How many series came back, in words; empty for none."""
    expr = substituted(query.expr, values)
    found = prometheus.query(expr) if query.instant else prometheus.query_range(expr, began)
    points = [float(point[1]) for series in found for point in series.get("values", [series.get("value")])]
    if not points:
        return ""
    only = ", all NaN" if all(map(math.isnan, points)) else ""
    return f"{len(found)} series{only}"


def check(worker: str, patience_s: float = PATIENCE_S, *, strict: bool = False) -> int:
    """The number of queries and rules that failed or had no data; prints a line for each."""
    promtool("check", "config", str(CONFIG))
    promtool("check", "rules", str(RULES))
    with tempfile.TemporaryDirectory(prefix="foreshock-prometheus-") as folder:
        began = time.time()
        prometheus = Prometheus(worker, Path(folder))
        try:
            prometheus.wait_ready()
            prometheus.wait_scraped()
            bad = 0
            for file in sorted(DASHBOARDS.glob("*.json")):
                bad += check_dashboard(prometheus, read_dashboard(file), began, patience_s, strict)
            return bad + check_rules(prometheus)
        finally:
            prometheus.stop()


def check_dashboard(prometheus: Prometheus, dashboard: Json, began: float, patience_s: float, strict: bool) -> int:
    print(f"{dashboard['title']}:")
    values = variables(prometheus, dashboard, patience_s)
    answers: dict[Query, str] = {}
    waiting = list(queries(dashboard))
    if strict:
        waiting = [replace(query, may_be_empty=query.is_annotation) for query in waiting]
    for _ in until(patience_s, STEP_S):
        answers |= {query: asked(prometheus, query, values, began) for query in waiting}
        waiting = [query for query in waiting if not answers[query] and not query.may_be_empty]
        if not waiting:
            break
    for query, answer in answers.items():
        print(f"{query.place}: {answer or ('none, which is fine' if query.may_be_empty else 'NO DATA')}")
        if query in waiting:
            print(f"   {substituted(query.expr, values)}")
    print(f"{len(answers)} queries, {len(waiting)} without data")
    return len(waiting)


def check_rules(prometheus: Prometheus) -> int:
    bad = 0
    for rule in prometheus.rules():
        error = "" if rule["health"] == "ok" else f": {rule.get('lastError') or 'not evaluated'}"
        print(f"rule {rule['name']}: {rule['health']}, {rule['state']}{error}")
        bad += rule["health"] != "ok"
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description="Put every query of the dashboard to a real Prometheus.")
    parser.add_argument("worker", metavar="URL", help="where the worker is: http://127.0.0.1:6066")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_S,
        metavar="S",
        help="how long to wait for data (default: %(default)s)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="panels that may be empty must not: something has to fire"
    )
    arguments = parser.parse_args()
    try:
        return 1 if check(arguments.worker, arguments.patience, strict=arguments.strict) else 0
    except Failed as error:
        print(f"check_prometheus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
