"""The configuration as records: everything that a person may say about a model is a field here.

What the reference data said is in the baseline file that the configuration names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from streams.duration import parse_ms
from streams.events import MAX_NAME
from streams.maintenance import Maintenance
from streams.sketch.layout import Kind
from streams.sketch.outcomes import Task

OTHER = "__other__"
"""The bucket into which undeclared models, and versions and segment values beyond their caps, are folded."""

OWN_TOPICS = ("partials", "progress", "state", "windows", "actions", "acks", "dead-letter")
"""Topics that workers write, without the prefix."""
SOURCES = ("inference", "labels", "feedback", "runs", "outcomes")
"""What is read, by the keys of `kafka` that name the topics."""

MAX_SEGMENT_VALUES = 64
MAX_SEGMENTS = 8
MAX_FEATURES = 5_000
MAX_MODELS = 5_000
MAX_VERSION = 128
MIN_PANE_MS = 1_000
CAPTURE = "capture_ratio"
NAME = f"a printable name of 1 to {MAX_NAME} characters without quotes or backslashes"


class Response(StrEnum):
    """What is done about a decision."""

    RETRAIN = "retrain"
    ROLLBACK = "rollback"
    HUMAN_REVIEW = "human_review"
    DATA_INCIDENT = "data_incident"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Security(_Strict, frozen=True):
    """How Kafka clients prove who they are. Secrets come from an environment variable or a file, never from here."""

    protocol: str = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: str | None = None
    username: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    token_file: str | None = None


class Isolation(StrEnum):
    """Whether records of open and aborted transactions are counted."""

    READ_COMMITTED = "read_committed"
    READ_UNCOMMITTED = "read_uncommitted"


class Kafka(_Strict, frozen=True):
    """Where the topics are."""

    broker: str = "127.0.0.1:9092"
    prefix: str = ""
    group: str = "foreshock"
    inference: str = "inference"
    labels: str = "labels"
    feedback: str = "feedback"
    runs: str = "runs"
    outcomes: str = "outcomes"
    buckets: int = 16
    chunk_size: int = 65_536
    isolation: Isolation = Isolation.READ_COMMITTED
    security: Security = msgspec.field(default_factory=Security)


class Web(_Strict, frozen=True):
    """Where /metrics and /health answer, and the bearer token that they ask for, from a variable or a file.

    Beyond loopback there has to be one, unless `open` says that anybody in reach may read.
    """

    listen: str = "127.0.0.1:6066"
    open: bool = False
    token_env: str | None = None
    token_file: str | None = None
    max_series: int = 20_000


class Feature(_Strict, frozen=True):
    """A declared feature. `range` may widen what the reference held; beyond it a value is out of range."""

    type: Kind
    range: tuple[float, float] | None = None


class Tuning(_Strict, frozen=True):
    """What a person changes about one signal."""

    effect: float | None = None
    method: str | None = None
    categorical_method: str | None = None


class Match(StrEnum):
    """How many of a rule's signals must be breached."""

    ANY = "any"
    ALL = "all"


class Rule(_Strict, frozen=True, rename={"for_panes": "for", "clear_panes": "clear"}):
    """Signals → decision. Fires after `for` breached panes in a row, resolves after `clear` quiet ones.

    `response`: one of `Response`, or one that the file declares. `over`: the windows, all of which must be breached.
    `segments`: for all declared ones too, or for those that are listed. `cool_down`: so long after it has resolved it
    fires only on new or much worse evidence. `shadow`: it decides, and what it decides is recorded, not published.
    `inhibits`: while it fires, rules of the layers above hold their actions back; by default if its response is
    `data_incident`.
    """

    name: str
    signals: tuple[str, ...]
    response: str
    match: Match = Match.ANY
    severity: Severity = Severity.WARNING
    over: str | tuple[str, ...] | None = None
    for_panes: int = 1
    clear_panes: int = 2
    min_n: int = 50
    features: tuple[str, ...] | None = None
    segments: bool | Mapping[str, tuple[str, ...]] = True
    cool_down: str | None = None
    shadow: bool = False
    inhibits: bool | None = None
    owner: str = ""
    runbook: str = ""

    @property
    def overs(self) -> tuple[str, ...]:
        """The windows as they are written; none: the pane."""
        return (self.over,) if isinstance(self.over, str) else self.over or ()

    @property
    def cool_down_ms(self) -> int:
        return parse_ms(self.cool_down) if self.cool_down else 0

    @property
    def is_inhibitor(self) -> bool:
        return not self.shadow and (self.response == Response.DATA_INCIDENT if self.inhibits is None else self.inhibits)

    @property
    def kpi(self) -> str | None:
        """The KPI, or the count of what was served, whose clock it is judged by; None: that of events or labels."""
        if CAPTURE in self.signals:
            return CAPTURE
        return self.features[0] if "kpi" in self.signals and self.features else None

    def chooses(self, signal: str, column: str | None) -> bool:
        """Whether it looks at this column of a signal: of those it lists, or of all. The freshness of a job is the
        matter of rules that list the job, or look at its failures."""
        if self.features is not None:
            return column in self.features
        return signal != "freshness" or column is None or "job_failure" in self.signals

    def looks_at(self, dimension: str, value: str) -> bool:
        """Whether it decides for a segment."""
        if isinstance(self.segments, bool):
            return self.segments
        return value in self.segments.get(dimension, ())


class Labels(_Strict, frozen=True):
    """How the model's labels are read, and joined to its predictions.

    `classes`: of a binary model the negative one and the positive one, whose probability the score is. `critical`:
    classes whose recall and precision are judged.
    """

    task: Task
    classes: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    threshold: float = 0.5
    horizon: str = "30d"

    @property
    def horizon_ms(self) -> int:
        return parse_ms(self.horizon)


class Feedback(StrEnum):
    """What users and workflows say of a model, long before its labels do."""

    OVERRIDE = "override"
    COMPLAINT = "complaint"
    WORKFLOW_STEP = "workflow_step"


class FeedbackKind(_Strict, frozen=True):
    """One kind of feedback that is counted. `usual`: its rate by inference event, if that is known; else the same hours
    of earlier weeks say. `values`: those that are counted apart."""

    usual: float | None = None
    values: tuple[str, ...] = ()


class Aggregate(StrEnum):
    """How observations of a KPI make one number. A rate is the mean of noughts and ones."""

    SUM = "sum"
    MEAN = "mean"
    RATIO = "ratio"


class Better(StrEnum):
    """Which way a KPI should go."""

    LOWER = "lower"
    HIGHER = "higher"
    NEAR = "near"


class Kpi(_Strict, frozen=True):
    """A business KPI. `of`: the two KPIs whose sums a ratio is made of. `target`: of a sum, by day; without one, the
    same hours of earlier weeks say what is usual. `tolerance`: so much worse, as a share of that, is no matter."""

    aggregate: Aggregate
    better: Better
    of: tuple[str, ...] = ()
    target: float | None = None
    tolerance: float = 0.1


class Job(_Strict, frozen=True):
    """A job of the model: how often a run has to succeed, and how long one may take. `namespace`: of OpenLineage, if
    the name alone would not do. `late`: so much later than `every` is no matter; by default half of it."""

    every: str
    longest: str | None = None
    late: str | None = None
    namespace: str | None = None

    @property
    def every_ms(self) -> int:
        return parse_ms(self.every)

    @property
    def longest_ms(self) -> int | None:
        return parse_ms(self.longest) if self.longest else None

    @property
    def allowed_ms(self) -> int:
        """So long after a success the next one is due at the latest."""
        return self.every_ms + (parse_ms(self.late) if self.late else self.every_ms // 2)


class _Settings(_Strict, frozen=True):
    """What is said of a model, and needs no other part of the file to be read."""

    baseline: str | None = None
    versions: tuple[str, ...] = ()
    pane: str = "1m"
    grace: str = "1m"
    lateness: str = "1d"
    idle: str = "1m"
    false_alarms_per_week: float = 1.0
    preset: str | None = None
    owner: str = ""
    runbook: str = ""
    max_versions: int = 8
    labels: Labels | None = None
    served: str | None = None
    segments: Mapping[str, tuple[str, ...]] = {}
    maintenance: tuple[Maintenance, ...] = ()


class RawModel(_Settings, frozen=True):
    """A model as the file has it: its parts are read one by one, so that an error names the line of each."""

    feedback: Mapping[str, object] = {}
    kpis: Mapping[str, object] = {}
    jobs: Mapping[str, object] = {}
    signals: Mapping[str, object] = {}
    features: Mapping[str, object] = {}
    rules: tuple[object, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The fields that it shares with `Model`, by name."""
        return {name: getattr(self, name) for name in _Settings.__struct_fields__}


class Model(_Settings, frozen=True):
    """One monitored model, checked. `served`: the KPI in which the serving side counts its requests, so that the share
    of them that reaches us is known."""

    feedback: Mapping[Feedback, FeedbackKind] = {}
    kpis: Mapping[str, Kpi] = {}
    jobs: Mapping[str, Job] = {}
    signals: Mapping[str, Tuning] = {}
    features: Mapping[str, Feature] = {}
    rules: tuple[Rule, ...] = ()

    @property
    def pane_ms(self) -> int:
        return parse_ms(self.pane)

    @property
    def grace_ms(self) -> int:
        return parse_ms(self.grace)

    @property
    def lateness_ms(self) -> int:
        return parse_ms(self.lateness)

    @property
    def idle_ms(self) -> int:
        return parse_ms(self.idle)

    def job_named(self, namespace: str, name: str) -> str | None:
        """The declared job of that name, if there is one."""
        job = self.jobs.get(name)
        return name if job is not None and job.namespace in (None, namespace) else None

    def made_of(self, kpi: str) -> tuple[str, ...]:
        """The KPIs whose observations a declared KPI is made of, or the share of the served requests."""
        return (self.served or "",) if kpi == CAPTURE else self.kpis[kpi].of or (kpi,)

    @property
    def observed_kpis(self) -> tuple[str, ...]:
        """The KPIs whose observations are counted, each once."""
        return tuple(dict.fromkeys(part for name in self.kpi_clocks for part in self.made_of(name)))

    @property
    def kpi_clocks(self) -> tuple[str, ...]:
        """What is evaluated on a clock of its own: the declared KPIs, and the share of the served requests that
        came."""
        return (*self.kpis, *([CAPTURE] if self.served else []))

    def overs_ms(self, rule: Rule) -> tuple[int, ...]:
        """A rule's windows, the shortest first."""
        return tuple(sorted({parse_ms(over) for over in rule.overs})) or (self.pane_ms,)


class Limits(_Strict, frozen=True):
    """Caps on what a payload may cost."""

    max_record_bytes: int = 1_048_576
    future: str = "5m"

    @property
    def future_ms(self) -> int:
        return parse_ms(self.future)


class _Whole(_Strict, frozen=True):
    """What the file says beside its models."""

    kafka: Kafka = msgspec.field(default_factory=Kafka)
    web: Web = msgspec.field(default_factory=Web)
    limits: Limits = msgspec.field(default_factory=Limits)
    responses: Mapping[str, str] = {}
    """Responses of one's own, each with what it means."""


class RawConfig(_Whole, frozen=True, kw_only=True):
    """The file as it is written."""

    models: Mapping[str, object]


class Config(_Whole, frozen=True, kw_only=True):
    """The whole file, checked."""

    models: Mapping[str, Model]

    def bucket(self, model: str) -> int:
        """The bucket of models that a model belongs to: a stable hash, the same in every release."""
        return bucket_of(model, self.kafka.buckets)


@lru_cache(16_384)
def bucket_of(model: str, buckets: int) -> int:
    """FNV-1a of the model's name modulo the number of buckets."""
    value = 0xCBF29CE484222325
    for byte in model.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value % buckets


def is_nameable(name: str) -> bool:
    """Whether a feature or a segment of this name can be declared: it becomes a field of a record, and a YAML key."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and not {'"', "\\"} & set(name)
