"""The benches still run: those without Kafka with tiny numbers, the others as far as their imports."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import (
    curves,
    join,
    latency,
    machine,
    memory,
    null_study,
    profile_stage_one,
    run,
    startup,
    stream,
    throughput,
)

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(file.stem for file in (ROOT / "bench").glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def small_reference() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "REFERENCE_EVENTS", 2_000)
        stream.learned.cache_clear()
        yield
    stream.learned.cache_clear()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_imported(name: str) -> None:
    importlib.import_module(f"bench.{name}")


@pytest.mark.parametrize("file", sorted((ROOT / "bench" / "peers").glob("*.py")), ids=lambda file: file.stem)
def test_what_runs_in_another_environment_is_python(file: Path) -> None:
    compile(file.read_text(), file, "exec")


def test_the_join(capsys: pytest.CaptureFixture[str]) -> None:
    join.main(["--predictions", "3000", "--labels", "300"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("predictions", "labels", "look-up", "rebuild"))


def test_the_curves_and_their_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves.main(["--events", "256", "--rounds", "1", "--only", "dimensions,panes", "--figures", str(tmp_path)])
    assert "stage 1 by panes" in capsys.readouterr().out
    drawn = {file.name for file in tmp_path.iterdir()}
    assert drawn == {"cost-by-dimensions.svg", "cost-by-panes.svg"}
    for name in drawn:
        assert ElementTree.parse(tmp_path / name).findall("{*}path")


def test_the_stages_that_are_timed_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    profile_stage_one.main(["--events", "1024", "--rounds", "1"])
    said = capsys.readouterr().out
    for _, _, stage in profile_stage_one.STAGES:
        if stage != "decode: one by one":  # a good stream has none of these
            assert stage.split(":")[0] in said


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--events", "20000", "--steps", "2"]) == 0
    assert "books: read 20,000" in capsys.readouterr().out


def test_the_null_study(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--methods", "psi", "--bins", "10 equal", "-m", "500", "-n", "500", "--references", "20", "--windows", "5"]
    null_study.main(few)
    assert "psi" in capsys.readouterr().out


def test_the_peers_count_what_ours_count() -> None:
    throughput.check_same_answers(throughput.sketches(), events=500)


def test_latency_takes_the_first_action_that_names_the_feature() -> None:
    """Two partitions; the pane ends at 10,000 and the grace is 2,000, so the later of 12,100 and 12,400 closes it."""
    model = latency.Watched("m", latency.Fault.CATASTROPHIC, begins_ms=5_000, first_faulty_ms=5_020)
    model.sent_ms[0].extend((9_000, 12_100))
    model.sent_ms[1].extend((11_999, 12_400, 13_000))
    window = {"window": {"end": "1970-01-01T00:00:10Z"}, "model": "m", "state": "firing"}
    published = [
        (12_500, window | {"signals": [{"feature": "age"}]}),
        (12_900, window | {"signals": [{"feature": "amount"}]}),
        (14_000, window | {"signals": [{"feature": "amount"}]}),
    ]
    seen, others = latency.judged([model], published)
    assert seen[latency.Fault.CATASTROPHIC] == latency.Seen(1, [500], [7_880])
    assert others == 1


def test_versions_name_the_peers_too() -> None:
    assert {"Python", "Apache Kafka", "numpy", "bytewax", "apache-flink"} <= {name for name, _ in machine.versions()}


def test_a_bench_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--only", "thruput"])
    assert "no bench thruput: choose from throughput" in capsys.readouterr().err


def test_start_up_tells_median_and_spread(capsys: pytest.CaptureFixture[str]) -> None:
    starts = [
        {"counted": 2.0, "rebuilt": 1.0, "memory_mib": 90.0},
        {"counted": 4.0, "rebuilt": 1.5, "memory_mib": 99.0},
    ]
    startup.show([(75, 2**20, starts)])
    assert "3.00 (2.00 to 4.00)" in capsys.readouterr().out
