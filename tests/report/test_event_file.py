"""TensorBoard shows what was recorded, each update once, after restarts too."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from report.metrics import RunLog


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(e.step, e.value) for e in accumulator.Scalars(tag)]


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (20, 40):
        log.write("sft", step=step, steps=40, loss=1 / step, note="warm-up", grad_norm=math.nan)
    log.write("eval", stage="sft", variant="held_out", success=0.25, metrics={"legal": 0.5})
    log.close()
    assert scalars(tmp_path, "sft/loss") == [(20, pytest.approx(0.05)), (40, pytest.approx(0.025))]
    assert scalars(tmp_path, "eval/held_out/success")[0][1] == 0.25
    assert scalars(tmp_path, "eval/held_out/metrics/legal")[0][1] == 0.5


@pytest.mark.parametrize("restarts", [1, 2])
def test_tensorboard_has_each_update_once_after_a_restart(
    tmp_path: Path, monkeypatch, restarts: int
) -> None:
    """Also one that has shown the run before, and goes on reading it."""
    seconds = count(1)  # by which its files are in order
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    log = RunLog(tmp_path)
    for update in range(1, 6):
        log.write("ppo", update=update, loss=float(update))
    live = EventAccumulator(str(tmp_path / "tensorboard"))
    assert [e.step for e in live.Reload().Scalars("ppo/loss")] == [1, 2, 3, 4, 5]
    wanted = [(update, float(update)) for update in (1, 2, 3)]
    for made_again in range(restarts):
        log = RunLog(tmp_path, keep=lambda record: record["update"] <= 3)
        assert [(e.step, e.value) for e in live.Reload().Scalars("ppo/loss")] == wanted
        for update in (4, 5, 6):
            log.write("ppo", update=update, loss=10.0 + update + made_again)
        now = [*wanted, *((update, 10.0 + update + made_again) for update in (4, 5, 6))]
        assert [(e.step, e.value) for e in live.Reload().Scalars("ppo/loss")] == now
        assert scalars(tmp_path, "ppo/loss") == now
    sizes = [file.stat().st_size for file in sorted((tmp_path / "tensorboard").iterdir())]
    assert [size > 0 for size in sizes] == [False] * restarts + [True]


def test_a_clock_that_goes_back_hides_nothing(tmp_path: Path, monkeypatch) -> None:
    """TensorBoard reads files in the order of their names, which begin with the time."""
    for now in (100, 70, 130):
        monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda now=now: now))
        log = RunLog(tmp_path, keep=lambda _: False)
        log.write("ppo", update=now, loss=1.0)
        log.close()
        assert scalars(tmp_path, "ppo/loss") == [(now, 1.0)]


def test_tensorboard_has_each_engine_and_the_staleness(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write("ppo", update=4, engine_idle=[0.25, 0.5], staleness=[6, 0, 2], interval=[0.1, 0.2])
    log.write("sync", version=4, paused_seconds=[0.125])
    log.close()
    assert scalars(tmp_path, "ppo/engine_idle/1") == [(4, 0.5)]
    assert scalars(tmp_path, "sync/paused_seconds/0") == [(4, 0.125)]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert not any("interval" in tag for tag in accumulator.Tags()["scalars"])
    (event,) = accumulator.Histograms("ppo/staleness")
    histogram = event.histogram_value
    assert (event.step, histogram.num, histogram.sum, histogram.max) == (4, 8, 4, 2)
    # TensorBoard adds an empty bucket in front.
    assert dict(zip(histogram.bucket_limit, histogram.bucket, strict=True)) == {
        0.5: 6,
        1.5: 0,
        2.5: 2,
    }
