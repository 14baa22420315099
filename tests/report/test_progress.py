"""What the terminal shows, for records as a run writes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.schema import RunConfig
from report import progress as module
from report.metrics import RunLog
from report.progress import (
    Progress,
    RunConsole,
    State,
    Tail,
    duration,
    numbers,
    plain_line,
    share,
)


def record(kind: str, at: float, **numbers: Any) -> dict[str, Any]:
    return {"time": 1e9 + at, "kind": kind, "elapsed_s": at} | numbers


def state_of(*records: dict[str, Any], clock: float = 0.0) -> State:
    state = State()
    for r in records:
        state.add(r, clock)
    return state


def shown(folder: Path, terminal: bool) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    progress = Progress(folder, RunConfig(name="demo"), console)
    return progress, out


def test_tail_gives_each_record_once_and_waits_for_half_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    file.write_text('{"a": 1}\n{"a": 2')
    assert tail.read() == [{"a": 1}]
    with file.open("a") as stream:
        stream.write("}\n")
    assert tail.read() == [{"a": 2}]
    assert tail.read() == []
    assert not tail.replaced


def test_tail_begins_anew_when_the_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    tail = Tail(file)
    tail.read()
    draft = tmp_path / "draft"
    draft.write_text('{"a": 1}\n{"a": 3}\n')
    draft.replace(file)
    assert tail.read() == [{"a": 1}, {"a": 3}]
    assert tail.replaced


def test_tail_meets_a_file_that_is_replaced_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, draft = tmp_path / "metrics.jsonl", tmp_path / "draft"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    draft.write_text('{"longer": 1}\n{"longer": 2}\n')
    tail, opened = Tail(file), Path.open

    def replaced(path: Path, mode: str) -> object:
        stream = opened(path, mode)
        draft.replace(file)
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", replaced)
        assert tail.read() == [{"a": 1}, {"a": 2}]
    assert tail.read() == [{"longer": 1}, {"longer": 2}]
    assert tail.replaced


def test_tail_still_says_that_it_was_replaced_after_a_read_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, draft = tmp_path / "metrics.jsonl", tmp_path / "draft"
    file.write_text('{"a": 1}\n')
    tail = Tail(file)
    tail.read()
    draft.write_text('{"a": 2}\n')
    draft.replace(file)

    class Away(io.BytesIO):
        def fileno(self) -> int:
            return descriptor

        def read(self, size: int | None = -1) -> bytes:
            raise OSError("Stale file handle")

    with file.open() as stream, monkeypatch.context() as patch:
        descriptor = stream.fileno()
        patch.setattr(Path, "open", lambda path, mode: Away())
        with pytest.raises(OSError, match="Stale"):
            tail.read()
    assert tail.read() == [{"a": 2}]
    assert tail.replaced


def test_phases_nest_and_end() -> None:
    begin = {"event": "begin"}
    state = state_of(record("phase", 0, phase="ppo", **begin))
    state.add(record("phase", 1, phase="eval ppo", **begin), 0)
    assert state.phases == ["ppo", "eval ppo"]
    state.add(record("phase", 2, phase="eval ppo", event="end"), 0)
    assert (state.phases, state.counted) == (["ppo"], "ppo")
    state.add(record("phase", 3, phase="eval ppo", **begin), 0)
    state.add(record("phase", 4, phase="ppo", **begin), 0)  # a restart in the evaluation
    assert state.phases == ["ppo"]


def test_time_left_follows_the_recent_pace() -> None:
    state = state_of(record("phase", 100, phase="sft", event="begin"), clock=50)
    assert state.seconds_left(50) is None
    state.add(record("sft", 120, step=20, steps=100, loss=1.0), 70)
    assert state.seconds_left(70) == pytest.approx(80)  # 1 s a step since the phase began
    state.add(record("sft", 130, step=40, steps=100, loss=1.0), 80)
    assert state.seconds_left(80) == pytest.approx(30)  # 0.5 s a step between records
    assert state.seconds_left(85) == pytest.approx(25)
    assert state.seconds_left(500) == 0


def test_time_left_after_a_resume_counts_only_new_steps() -> None:
    state = state_of(
        record("phase", 0, phase="ppo", event="begin"),
        record("ppo", 10, update=1, updates=50, success=0.5, episodes=10),
        record("phase", 500, phase="ppo", event="begin"),
    )
    assert state.done() == (0, 0)
    assert state.seconds_left(0) is None
    state.add(record("ppo", 510, update=30, updates=50), 0)
    state.add(record("ppo", 514, update=31, updates=50), 0)
    assert state.seconds_left(0) == pytest.approx(19 * 4)


def test_ppo_success_has_its_interval() -> None:
    state = state_of(
        record("ppo", 1, update=1, updates=9, success=0.25, episodes=256, reward=-0.5, kl=None)
    )
    values = dict(numbers(state, "ppo"))
    assert values["success"] == "25.0 % [20.1, 30.6]"
    assert values["reward"] == "-0.50"
    assert values.keys().isdisjoint({"kl", "failed"})
    played = record("ppo", 1, update=1, updates=9, success=0.25, episodes=9, episodes_played=256)
    assert dict(numbers(state_of(played), "ppo"))["success"] == values["success"]


def test_parity_of_the_proof_counts() -> None:
    check = {"head": {"parity_mean_abs": 3e-6}, "mlp": {"parity_mean_abs": 1e-6}}
    state = state_of(record("sync", 1, version=0, check=check), record("sync", 2, check=None))
    assert state.parity == 3e-6


def test_failures_are_shown() -> None:
    state = state_of(
        record("ppo", 1, update=1, updates=9, success=None, episodes=0, failed=3),
        record("restart", 2, who="rollout worker 1", cause="OutOfMemoryError: host memory"),
    )
    assert ("failed", "3") in numbers(state, "ppo")
    assert "restart: rollout worker 1: OutOfMemoryError: host memory" in plain_line(state, 0)


def test_a_packing_that_was_given_up_is_shown_with_its_cause() -> None:
    given_up = record("packing", 1, who="learner", packing="padded", cause="sequences leak")
    assert "packing: learner: sequences leak" in plain_line(state_of(given_up), 0)
    kept = record("packing", 1, who="learner", packing="auto", cause="")
    assert "packing" not in plain_line(state_of(kept), 0)


def test_a_terminal_shows_phase_numbers_and_evaluations(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    view, out = shown(tmp_path, terminal=True)
    with view:
        view.update()
        log.write("phase", phase="ppo", event="begin")
        log.write(
            "eval", stage="start", variant="[held] out", success=0.125, n=64, interval=[0.06, 0.23]
        )
        log.write(
            "ppo",
            update=3,
            updates=40,
            reward=1.5,
            success=0.5,
            episodes=64,
            kl=0.01,
            parity_mean_abs=2e-6,
        )
        view.update()
    text = out.getvalue()
    for expected in (
        "demo",
        "ppo",
        "3/40",
        "+1.50",
        "50.0 % [38.1, 61.9]",
        "[held] out",
        "12.5 % [6.0, 23.0]",
        "differ by 2.0e-06",
    ):
        assert expected in text


def test_a_terminal_shows_where_the_time_and_the_episodes_of_an_update_went(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    view, out = shown(tmp_path, terminal=True)
    with view:
        log.write(
            "ppo",
            update=3,
            updates=40,
            learner_idle=0.034,
            engine_idle=[0.071, 0.125, 0.09],
            staleness=[0, 6, 2],
            phase_seconds={"take": 0.21, "publish": 0.01, "step": 1.25},
            ledger={"queued": 0, "running": 40, "ready": 7, "taken": 8},
        )
        view.update()
    text = " ".join(out.getvalue().split())
    assert "learner idle 3% engines idle 7–12%" in text
    assert "TIME step 1.2 s take 0.2 s staleness 1: 6, 2: 2 running 40 ready 7" in text


def test_engines_that_idle_alike_are_one_number() -> None:
    state = state_of(record("ppo", 1, update=1, updates=2, engine_idle=[0.501, 0.504]))
    assert dict(numbers(state, "ppo"))["engines idle"] == "50%"
    assert module.times(record("ppo", 1)) == [], "an older run's"


@pytest.mark.parametrize(("idle", "shown"), [([None, 0.5, None, 0.6], "50–60%"), ([None], None)])
def test_an_engine_that_was_lost_counts_as_none(idle, shown) -> None:
    state = state_of(record("ppo", 1, update=1, updates=2, engine_idle=idle))
    assert dict(numbers(state, "ppo")).get("engines idle") == shown


def test_without_a_terminal_a_plain_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    file = tmp_path / "metrics.jsonl"
    view, out = shown(tmp_path, terminal=False)
    with view:
        view.update()
        lines = [record("phase", 0, phase="sft", event="begin")]
        lines += [record("sft", 10 * i, step=i, steps=40, loss=2.0) for i in range(1, 4)]
        for line in lines:
            with file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            clock[0] += 3
            view.update()
    assert out.getvalue().splitlines() == [
        "starting",
        "sft  1/40  loss 2.0000  6:30 left",
        "sft  3/40  loss 2.0000  6:10 left",
    ]


def test_the_time_so_far_is_the_records_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same clock as `elapsed_s` in the summary: a resumed run goes on from its last record."""
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    view, out = shown(tmp_path, terminal=True)
    with view:
        clock[0] += 4
        view.update()
        assert "4 s so far" in out.getvalue()
        line = record("phase", 100, phase="sft", event="begin")
        (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        view.update()
        clock[0] += 7
        view.update()
    assert "1:47 so far" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1:00"), (187, "3:07"), (7387, "2:03:07")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_read_right_stands_beside_success() -> None:
    measured = {"success": 0.5, "interval": [0.4, 0.6], "metrics": {"recognition": 0.982}}
    assert module.share(measured) == "50.0 % [40.0, 60.0], reads 98.2 %"
    assert module.share(measured | {"metrics": {}}) == "50.0 % [40.0, 60.0]"
    state = state_of(record("ppo", 1, update=1, updates=2, metric_recognition=0.982))
    assert ("reads", "98.2%") in numbers(state, "ppo")


def test_greedy_success_is_shown_where_an_evaluation_has_it() -> None:
    record = {"success": 0.25, "interval": [0.2, 0.3], "metrics": {"recognition": 0.9}}
    assert share(record) == "25.0 % [20.0, 30.0], reads 90.0 %"
    greedy = {"success": 0.5, "n": 4, "interval": [0.4, 0.6]}
    assert share(record | {"greedy": greedy}) == "50.0 % [40.0, 60.0], reads 90.0 %"
    assert share({"success": None}) == "–"


def test_the_first_answer_leads_where_there_are_several_tries() -> None:
    record_ = {"success": 0.25, "interval": [0.2, 0.3], "first_try": 0.125, "headline": "first_try"}
    assert share(record_) == "12.5 % at first (25.0 % within all tries)"
    greedy = {"success": 0.5, "n": 4, "interval": [0.4, 0.6], "first_try": 0.25}
    known = record_ | {"greedy": greedy, "first_try_interval": [0.125, 0.375]}
    assert share(known) == "25.0 % at first [12.5, 37.5] (50.0 % within all tries)"


def test_training_is_shown_by_the_measure_of_the_first_evaluation() -> None:
    update = {"update": 1, "updates": 9, "success": 0.5, "first_try": 0.25, "episodes": 256}
    evaluated = {"stage": "start", "variant": "train", "success": 0.5, "interval": [0, 1]}
    for lead, text in (
        ("first_try", "25.0 % at first [20.1, 30.6] (50.0 % within all tries)"),
        ("success", "50.0 % [43.9, 56.1]"),
    ):
        state = state_of(record("eval", 0, **evaluated, headline=lead), record("ppo", 1, **update))
        assert dict(numbers(state, "ppo"))["success"] == text
    state.evals.clear()
    assert dict(numbers(state, "ppo"))["success"] == "50.0 % [43.9, 56.1]"


def test_what_ran_before_a_resume_has_ended(tmp_path: Path) -> None:
    """Its phases are not open, and its pace does not count, by whichever clock they come."""
    begun = [
        {"kind": "phase", "phase": "sft", "event": "begin"},
        *({"kind": "sft", "step": step, "steps": 9} for step in (1, 2)),
    ]
    old, new = (
        [r | {"time": t + n, "elapsed_s": float(n)} for n, r in enumerate(begun)]
        for t in (9e9, 7e9)  # the next rank 0 has a clock that is far behind
    )
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in old))
    progress = shown(tmp_path, terminal=False)[0]
    progress.update()
    state = progress.state
    assert (state.phases, state.done(), state.seconds_left(0.0)) == ([], (0, 0), None)
    assert state.last["sft"]["step"] == 2
    draft = tmp_path / "draft"
    draft.write_text("".join(json.dumps(r) + "\n" for r in [*old[:2], *new]))
    draft.replace(file)
    progress.update()
    state = progress.state
    assert (state.phases, state.done(), len(state.pace)) == (["sft"], (2, 9), 3)


class Full(io.StringIO):
    """As standard output on a full disk, or whose reader has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None

    def flush(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), BrokenPipeError(32, "Broken pipe")]
)
@pytest.mark.parametrize("first", [True, False])
def test_an_output_that_takes_nothing_does_not_end_the_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    error: OSError,
    first: bool,
) -> None:
    out = Full()
    console = RunConsole(file=out, force_terminal=terminal, width=160)
    log = RunLog(tmp_path)
    out.error = error if first and not terminal else None
    with Progress(tmp_path, RunConfig(name="demo"), console) as progress:
        out.error = error if first else None
        progress.update(last=True)
        out.error = error
        log.write("phase", phase="sft", event="begin")
        for _ in range(3):
            progress.update(last=True)
        assert progress.state.counted == "sft"  # by which the run is given its time to end
    assert capsys.readouterr().err.count(f"no more is shown: {error}") == 1
