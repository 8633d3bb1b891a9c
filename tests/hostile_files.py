"""Files that no command may trip over, and a run of commands over them in one process with little memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import pyarrow
import pyarrow.parquet as pq

from agents import cli
from streams.seal import seal

MIB = 1 << 20
HEADROOM_BYTES = 700 * MIB
"""Beyond what the process has when it begins."""

YAML_LEVELS = 12


def event(**more: object) -> bytes:
    row = {"event_id": "e", "ts": 1_767_571_200_000, "model": "m", "features": {"a": 1}, "score": 0.5}
    return json.dumps(row | more).encode()


def aliases(first: str, level: Callable[[str], str], last: str) -> str:
    names = [chr(97 + i) for i in range(YAML_LEVELS)]
    text = first + "".join(f"{name}: &{name} {level(before)}\n" for before, name in itertools.pairwise(names))
    return text + last.replace("LAST", f"*{names[-1]}")


def ninefold(before: str) -> str:
    return ", ".join([f"*{before}"] * 9)


CONFIGS: dict[str, str | bytes] = {
    "digits": "models: {m: {max_versions: " + "9" * 5_000 + "}}\n",
    "hexadecimal": "models: {m: {max_versions: 0x" + "f" * 20_000 + "}}\n",
    "sixties": "models: {m: {max_versions: 1" + ":59" * 3_000 + "}}\n",
    "a float of digits": "models: {m: {false_alarms_per_week: -1" + "0" * 5_000 + ".0}}\n",
    "laughs": aliases("a: &a [x]\n", lambda b: f"[{ninefold(b)}]", "models: {m: {rules: [{name: LAST}]}}\n"),
    "merges": aliases("a: &a {x: 1}\n", lambda b: f"{{<<: [{ninefold(b)}]}}", "models: {m: LAST}\n"),
    "itself": "models: &m {m: *m}\n",
    "merged with itself": "models: &m {<<: *m}\n",
    "arrays": "models: " + "[" * 50_000,
    "objects": "models: " + "{a: " * 50_000,
    "a comment": "# " + "x" * 10_000_000 + "\nmodels: {m: {}}\n",
    "comments": ("# " + "x" * 78 + "\n") * 130_000 + "models: {m: {}}\n",
    "a name": "models: {? " + "x" * 200_000 + " : {}}\n",
    "letters that are none": b"models: \xff\xfe\n",
    "zeros": b"\0" * 1_000,
    "nothing": "",
    "many lists": "models: [" + "[]," * 2_000_000 + "]\n",
    "a deep place among many lists": "models: [" + "[" * 150 + "]" * 150 + "," + "[]," * 1_000_000 + "]\n",
    "an error behind many keys": "".join(f"k{at}: {{a: 1}}\n" for at in range(100_000)) + "]\n",
    "half of a character": 'models: {m: {owner: "\\ud800"}}\n',
    "half of a character in a key": 'models: {m: {segments: {"\\udfff": [a]}}}\n',
    "a rule of two lines": 'models: {m: {rules: [{name: "a\\nb", signals: [null_rate], response: retrain}]}}\n',
    "a prefix that no topic has": 'kafka: {prefix: "\\e[31m"}\nmodels: {m: {}}\n',
    "a topic without a name": 'kafka: {labels: ""}\nmodels: {m: {}}\n',
    "digits of another script": "models: {m: {pane: \uff12m}}\n",
}
"""Each is refused, or fine, in seconds."""

DAMAGED: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: b"\0" * 1_000,
    "a bomb": lambda: seal(zlib.compress(b"\0" * (300 * MIB), 9)),
    "deep": lambda: seal(zlib.compress(b"\x91" * 200_000, 1)),
    "lengths": lambda: seal(zlib.compress(b"\xdd\xff\xff\xff\xff", 1)),
}
"""Baselines."""


def line_of(size: int) -> Iterator[bytes]:
    yield b'{"event_id": "'
    for _ in range(size // MIB):
        yield b"x" * MIB
    yield b'"}\n'


def write(path: Path, parts: Iterable[bytes]) -> Path:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
    return path


def sparse(path: Path, size: int) -> Path:
    """A file of zeros that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def bomb(path: Path, part: bytes, times: int) -> Path:
    with gzip.open(path, "wb", 1) as file:
        for _ in range(times):
            file.write(part)
    return path


def event_files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Files of lines, and whether they are refused as a whole; of the others some lines are rejects."""
    strange = [
        event(features={"a": 10**4_000}),
        b'{"event_id": "e", "ts": ' + b"9" * 5_000 + b', "model": "m", "features": {}}',
        b'{"event_id": ' + b"9" * 5_000 + b', "ts": 1, "model": "m", "features": {}}',
        event(score=float("nan"), extra=["x"] * 1_000),
        b"[" * 100_000,
        b"\xff\xfe" * 1_000,
        b'{"a":' * 50_000,
        *(event(event_id=str(at), ts=1_767_571_200_000 + at * 1_000) for at in range(50)),
    ]
    yield write(folder / "strange.ndjson", (line + b"\n" for line in strange)), False
    os.mkfifo(folder / "pipe.ndjson")
    (folder / "folder.ndjson").mkdir()
    yield folder / "pipe.ndjson", True
    yield folder / "folder.ndjson", True
    yield Path("/dev/zero"), True
    yield sparse(folder / "zeros.ndjson", 1 << 30), True
    yield write(folder / "long.ndjson", line_of(64 * MIB)), True
    yield bomb(folder / "zeros.ndjson.gz", b"\0" * MIB, 256), True
    yield bomb(folder / "blank.ndjson.gz", b"\n" * MIB, 256), True


def tables(folder: Path, bombs: Iterable[tuple[Path, bool]]) -> Iterator[tuple[Path, bool]]:
    digits, rows = "9" * 5_000, "".join(f"{at},{1_767_571_200 + at}\n" for at in range(60))
    for name, text, refused in (
        ("digits.csv", f"a,ts\n{digits},1767571200\n{rows}", False),
        ("times.csv", f"a,ts\n1,inf\n2,nan\n3,{digits}\n{rows}", False),
        ("cell.csv", "a\n" + "x" * (2 * MIB) + "\n", True),
        ("line.csv", "x" * (40 * MIB), True),
        ("quote.csv", 'a\n"' + "x\n" * (20 * MIB), True),
        ("nothing.csv", "", True),
    ):
        (folder / name).write_text(text)
        yield folder / name, refused
    yield write(folder / "noise.parquet", [b"PAR1" + b"\xff" * 1_000 + b"PAR1"]), True
    yield from bombs
    os.mkfifo(folder / "pipe.csv")
    yield folder / "pipe.csv", True
    yield sparse(folder / "zeros.csv", 1 << 30), True


def columns(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Parquet files of a few kilobytes whose columns are hundreds of megabytes."""
    times = pyarrow.array([1_767_571_200_000 + at * 1_000 for at in range(200)])
    text = pyarrow.array(["x" * 2 * MIB] * 200)
    for name, column, refused in (
        ("texts.parquet", text, False),
        ("dictionary.parquet", text.dictionary_encode(), False),
        ("one text.parquet", pyarrow.array(["x" * (40 * MIB)] + [None] * 199), True),
        ("lists.parquet", pyarrow.array([["x" * MIB]] + [None] * 199), False),
    ):
        pq.write_table(pyarrow.table({"ts": times, "a": column}), folder / name, compression="zstd")
        yield folder / name, refused
    pq.write_table(
        pyarrow.table({"ts": times, "a": text}), folder / "plain.parquet", compression="zstd", use_dictionary=False
    )
    yield folder / "plain.parquet", True


def commands(folder: Path, sound: Path, bombs: Iterable[tuple[Path, bool]]) -> Iterator[tuple[list[str], bool | None]]:
    """Arguments, and whether they are refused; None: they may be. `sound`: a configuration of the model `m`."""
    out = str(folder / "out")
    for name, text in CONFIGS.items():
        path = folder / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield ["check", "-c", str(path)], None if name in ("a comment", "comments") else True
    for path in (Path("/dev/zero"), folder, folder / "pipe.yaml"):
        if path.name == "pipe.yaml":
            os.mkfifo(path)
        yield ["check", "-c", str(path)], True
    sparse(folder / "large.yaml", 1 << 30)
    yield ["check", "-c", str(folder / "large.yaml")], True
    for name, data in DAMAGED.items():
        (folder / f"{name}.baseline").write_bytes(data())
        yield ["check", "-c", str(with_baseline(folder, f"{name}.baseline"))], True
    sparse(folder / "large.baseline", 1 << 30)
    os.mkfifo(folder / "pipe.baseline")
    for baseline in ("large.baseline", "pipe.baseline", ".", "/dev/zero"):
        yield ["check", "-c", str(with_baseline(folder, baseline))], True
    for path, refused in event_files(folder):
        yield ["init", str(path), "--model", "m", "-o", out, "--force"], refused
        for option in ("--events", "--labels", "--acks", "--outcomes"):
            chosen = ["--events", str(folder / "strange.ndjson")] if option != "--events" else []
            arguments = ["backtest", "-c", str(sound), option, str(path), *chosen, "-o", out]
            yield arguments, True if refused else False if option == "--events" else None
    for path, refused in tables(folder, bombs):
        yield ["init", str(path), "--model", "m", "-o", out, "--force"], refused
    for name in ("ledger", "report"):
        rest = ["--cadence", "daily", "-o", out] if name == "report" else []
        made = folder / f"{name}.results"
        made.mkdir()
        os.mkfifo(made / "ledger.json")
        os.mkfifo(made / "windows.ndjson")
        yield [name, "-c", str(sound), "--from", str(made), *rest], True


def with_baseline(folder: Path, baseline: str) -> Path:
    path = folder / f"with {baseline.replace('/', '_')}.yaml"
    path.write_text(f"models: {{m: {{baseline: '{baseline}'}}}}\n")
    return path


def run(arguments: Sequence[str]) -> tuple[int, str, float]:
    """Exit code, stderr and seconds of a command in this process."""
    begun, said = time.monotonic(), io.StringIO()
    sys.argv = ["foreshock", *arguments]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, said.getvalue(), time.monotonic() - begun


def main(folder: Path, sound: Path) -> None:
    """A line for each command: its arguments, whether it is to be refused, exit code, stderr and seconds."""
    for name in cli.cli.list_commands(click.Context(cli.cli)):
        cli.cli.get_command(click.Context(cli.cli), name)  # what commands import is no matter of the files
    bombs = [*columns(folder)]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for arguments, refused in commands(folder, sound, bombs):
        print(json.dumps([arguments, refused, *run(arguments)]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
