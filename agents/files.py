"""Files of a user → inference events as JSON, line by line: .ndjson, .ndjson.gz, .parquet, .csv.

The names of a table's columns decide their roles: `event_id`, `ts` (or `timestamp`), `model_version`, `score`,
`prediction`, `latency_ms` and `error` are the event's own, `segments.X` is a dimension, `features.X` or any other name
a feature.
"""

from __future__ import annotations

import csv
import gc
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from agents.reading import (
    FREE_BYTES,
    MAX_BASELINE_BYTES,
    MAX_CONFIG_BYTES,
    MAX_LINE_BYTES,
    MAX_RATIO,
    check_regular,
    lines,
    read_bytes,
    text_lines,
    why,
)
from streams.baseline import Baseline
from streams.config import Config
from streams.configure import load
from streams.errors import ConfigError, DataError
from streams.plan import Plan, compile_plan

__all__ = ["lines", "read_plan", "reference"]

OWN = ("event_id", "model_version", "score", "prediction", "latency_ms", "error")
TIMES = ("ts", "timestamp", "time")
MAX_DIGITS = 19
"""Of a cell that is read as a whole number; a longer one is the nearest double."""
PARQUET_ROWS, PARQUET_SLICE = 4096, 16
"""Rows that are read at once, and of which values are made at once."""
KINDS = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz", ".parquet", ".csv")


def read_plan(path: Path) -> Plan:
    """The plan of a foreshock.yaml and of the baselines that it names, which are looked for next to it."""
    collects = gc.isenabled()
    gc.disable()  # nearly all that is made here stays: with thousands of models it is half of the time
    try:
        config = load(_text(path), path.name)
        return compile_plan(config, {name: found for name, found in _baselines(path, config)})
    finally:
        if collects:
            gc.enable()


def _text(path: Path) -> str:
    expected, mend = "a foreshock.yaml", "run 'foreshock init', or name it with -c"
    try:
        return read_bytes(path, expected, MAX_CONFIG_BYTES, mend).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(place=str(path), seen=why(error), expected=expected, mend=mend) from None


def _baselines(path: Path, config: Config) -> Iterator[tuple[str, Baseline]]:
    for name, model in config.models.items():
        if model.baseline is None:
            continue
        file = path.parent / model.baseline
        try:
            data = read_bytes(file, "the file that 'foreshock init' wrote", MAX_BASELINE_BYTES)
        except OSError as error:
            raise ConfigError(
                place=f"{path.name}, models.{name}.baseline",
                seen=f"{model.baseline}: {why(error)}",
                expected="the file that 'foreshock init' wrote next to it",
                mend="copy it there, or run 'foreshock init' again",
            ) from None
        yield name, Baseline.from_bytes(data, str(file))


def reference(path: Path, segments: Iterable[str] = (), model: str = "-") -> Iterator[bytes]:
    """Inference events of reference data in any of the known forms.

    Of a table: `segments` are columns to be dimensions, `model` is the name that its events get.
    """
    try:
        check_regular(path, "reference data")
    except OSError as error:
        seen = "no such file" if isinstance(error, FileNotFoundError) else why(error)
        raise DataError(place=str(path), seen=seen, expected="reference data", mend="check the path") from None
    if path.name.endswith((".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")):
        return lines(path)
    if path.suffix == ".parquet":
        return _events(_parquet_rows(path), frozenset(segments), model)
    if path.suffix == ".csv":
        return _events(_csv_rows(path), frozenset(segments), model)
    raise ConfigError(
        place=str(path),
        seen=f"a file of kind {path.suffix!r}",
        expected="one of " + ", ".join(KINDS),
        mend="convert it",
    )


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows, made of a few at a time: a page of a few bytes may stand for thousands of texts of megabytes."""
    try:
        import pyarrow  # 150 MB that only files of this kind need
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            place=str(path),
            seen="a Parquet file, and the package pyarrow is not installed",
            expected="the extra 'tables'",
            mend="pip install 'foreshock[tables]', or convert it to .ndjson or .csv",
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_inflated(path, file.metadata)
            kinds = file.schema_arrow
            texts = [name for name, kind in zip(kinds.names, kinds.types, strict=True) if _is_text(kind)]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
            for batch in file.iter_batches(PARQUET_ROWS, use_threads=False):
                for start in range(0, batch.num_rows, PARQUET_SLICE):
                    yield from _bounded(path, batch.slice(start, PARQUET_SLICE).to_pylist())
    except (OSError, ValueError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        raise DataError(place=str(path), seen=why(error), expected="a parquet file", mend="check it") from None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_binary(kind))


def _check_inflated(path: Path, found: Any) -> None:
    """Columns that claim to become more than files of lines may: see `reading.MAX_RATIO`."""
    size = path.stat().st_size
    groups = (found.row_group(number) for number in range(found.num_row_groups))
    inflated = sum(group.total_byte_size for group in groups)
    if inflated > max(FREE_BYTES, MAX_RATIO * size):
        seen, expected = f"{size:,} bytes that become {inflated:,}", f"at most {MAX_RATIO} times as many"
        raise ConfigError(place=str(path), seen=seen, expected=expected, mend="write it without compression")


def _bounded(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        if sum(len(cell) for cell in row.values() if isinstance(cell, str | bytes)) > MAX_LINE_BYTES:
            seen, expected = f"a row of more than {MAX_LINE_BYTES:,} characters", "rows of features"
            raise ConfigError(place=str(path), seen=seen, expected=expected, mend="leave out columns of documents")
    return rows


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Cells as numbers or booleans where the whole column is: that takes a pass of its own."""
    try:
        kinds = _csv_kinds(path)
        for row in csv.DictReader(text_lines(path)):
            yield {name: kinds[name](cell) if cell not in ("", None) else None for name, cell in row.items() if name}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(place=str(path), seen=why(error), expected="a UTF-8 CSV file with a header") from None


def _csv_kinds(path: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for row in csv.DictReader(text_lines(path)):
        for name, cell in row.items():
            if name and isinstance(cell, str) and cell and kinds.get(name) is not str:
                kind = _flag if cell.lower() in _FLAGS else _number if _is_number(cell) else str
                kinds[name] = kind if kinds.get(name, kind) is kind else str
            elif name:
                kinds.setdefault(name, str) if cell else None
    return {name: kinds.get(name, str) for name in kinds}


_FLAGS = {"true": True, "false": False}


def _flag(cell: str) -> bool:
    return _FLAGS[cell.lower()]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _number(cell: str) -> int | float:
    return int(cell) if cell.lstrip("+-").isdigit() and len(cell) <= MAX_DIGITS else float(cell)


def _events(rows: Iterable[Mapping[str, Any]], segments: frozenset[str], model: str) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        yield msgspec.json.encode(_event(number, row, segments, model))


def _event(number: int, row: Mapping[str, Any], segments: frozenset[str], model: str) -> dict[str, Any]:
    event: dict[str, Any] = {"event_id": str(number), "ts": 0, "model": model, "features": {}, "segments": {}}
    for name, cell in row.items():
        value = _plain(cell)
        if name in OWN:
            event[name] = value if value is None or name not in ("event_id", "model_version", "error") else str(value)
        elif name in TIMES:
            event["ts"] = _time(value)
        elif name.startswith("segments.") or name in segments:
            event["segments"][name.removeprefix("segments.")] = value
        if name not in OWN and name not in TIMES and name != "model" and not name.startswith("segments."):
            event["features"][name.removeprefix("features.")] = value
    return event


def _time(value: Any) -> Any:
    """Seconds since 1970 are told from milliseconds by their size."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return int(value * 1000) if abs(value) < 1e11 else int(value)
    return str(value).replace(" ", "T", 1) if value is not None else 0


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
