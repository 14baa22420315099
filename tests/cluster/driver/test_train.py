"""The order of a run on the driver, and what is left of it however it ends."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from errno import ENOSPC
from types import FunctionType, SimpleNamespace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.demonstrations import sft_data
from cluster.driver import learner_group
from cluster.driver import train as module
from cluster.driver.train import prepare_demonstrations, prepare_model, train
from cluster.failures import RunFailure
from cluster.phases import floors
from cluster.run import stop_signals
from cluster.run.last_resort import DONE
from cluster.run.lease import LeaseLost
from cluster.run.stop_signals import Terminated
from configs.load import ConfigError, load
from report import page
from report.page import write_report
from report.summary import ended
from tests.support.example_run import make_run


class FakePool:
    gpu = False

    def __init__(self, done):
        self.done = done

    def join(self, cfg, model):
        self.done.append(("join", model))
        return SimpleNamespace(gpu=self.gpu)

    def acquire(self, cfg, model):
        self.done.append(("acquire", model))
        return SimpleNamespace(gpu=self.gpu), ["worker"], "buffer"

    def release(self):
        self.done.append("release")

    def close(self):
        self.done.append("close")

    def keep_logs(self, folder):
        self.done.append(f"logs of {folder.name}")
        (folder / "logs").mkdir()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains with a group that raises an error; gives what was done, in order."""
    cfg = load("gp_l_debug", ["name=one", f"cluster.root={tmp_path}"])
    monkeypatch.setattr(module, "prepare_model", lambda cfg, folder: "initial")

    def begin(error=None, resume=False):
        done = []

        def group(job, plan, signals):
            done.append((job.folder, job.model, job.workers, job.buffer, job.channel))
            done.append(job.demonstrations)
            if error is not None:
                raise error() if isinstance(error, FunctionType) else error

        def render(cfg, folder, model):
            done.append(("render", model))
            return "rendered"

        monkeypatch.setattr(floors, "write_floors", lambda cfg, folder: done.append(folder.name))
        monkeypatch.setattr(learner_group, "run_learner_group", group)
        monkeypatch.setattr(module, "render", render)
        try:
            assert train(cfg, resume, FakePool(done)) == 0
        finally:
            begin.done = done
        return done

    return begin


@pytest.mark.parametrize("gpu", [False, True])
def test_demonstrations_are_rendered_before_a_gpu_is_taken_or_while_engines_start(
    run, tmp_path, monkeypatch, gpu
):
    monkeypatch.setattr(FakePool, "gpu", gpu)
    folder, render = tmp_path / "one", [("render", "initial")]
    assert run() == [
        ("join", "initial"),
        *(render if gpu else []),
        ("acquire", "initial"),
        "one",  # floors, while engines start
        *([] if gpu else render),
        (str(folder), "initial", ["worker"], "buffer", "nccl" if gpu else "object_store"),
        "rendered",
        "release",
    ]
    assert ended(folder) == {"status": "finished", "cause": ""}
    assert (folder / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (RunFailure("an engine was lost"), "failed", "an engine was lost"),
        (KeyboardInterrupt(), "interrupted", ""),
        (Terminated("SIGTERM"), "interrupted", "SIGTERM"),
    ],
)
def test_however_it_ends_actors_end_and_the_folder_says_how(run, tmp_path, error, status, cause):
    with pytest.raises(type(error)):
        run(error)
    assert run.done[-1] == "close"
    assert ("logs of one" in run.done) == (status == "failed")
    assert ended(tmp_path / "one") == {"status": status, "cause": cause}
    assert "release" not in run.done
    run(resume=True)
    assert ended(tmp_path / "one")["status"] == "finished"


def test_an_interrupt_says_where_a_resume_goes_on(run, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())
    said = capsys.readouterr().err
    assert f"{tmp_path / 'one'}: `cardinal resume` begins the phase sft again" in said


def test_however_often_it_is_interrupted_it_names_the_last_checkpoint(
    run, tmp_path, capsys, monkeypatch
):
    """A rank may write one more until its process has ended; after that none does."""
    folder, tokens, forced = tmp_path / "one", [], []
    monkeypatch.setattr(stop_signals, "end_at_once", lambda *words: forced.append(words))

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def group(job, plan, signals):
        tokens.append(job.token)
        interrupt()

    def close(pool):
        interrupt()
        tokens[0].check()
        Cursor("sft", step=20, state="sft-000020").save(folder / "checkpoints", keep=1)
        interrupt()

    def report(folder):
        interrupt()
        return write(folder)

    write = page.write_report
    monkeypatch.setattr(page, "write_report", report)
    monkeypatch.setattr(FakePool, "close", close)
    cfg = load("gp_l_debug", ["name=one", f"cluster.root={tmp_path}"])
    Cursor("sft", step=10, state="sft-000010").save(folder / "checkpoints", keep=1)
    (folder / "metrics.jsonl").touch()
    monkeypatch.setattr(module, "open_folder", lambda cfg, resume: folder)
    monkeypatch.setattr(floors, "write_floors", lambda cfg, folder: None)
    monkeypatch.setattr(module, "render", lambda cfg, folder, model: None)
    monkeypatch.setattr(learner_group, "run_learner_group", group)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, True, FakePool([]))
    assert capsys.readouterr().err.splitlines() == [
        "ending Ray and the engines; another signal ends them by force",
        f"{folder}: `cardinal resume` goes on after SFT step 20, the last checkpoint",
    ]
    assert forced, "a real process would have ended here"
    assert ended(folder)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(LeaseLost):
        tokens[0].check()


def test_signals_while_the_processes_of_a_finished_run_end_are_no_failure(
    run, tmp_path, monkeypatch
):
    forced = queue.Queue()
    monkeypatch.setattr(stop_signals, "end_at_once", lambda *words: forced.put(words))

    def release(pool):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        pool.done.append(forced.get(timeout=60))

    monkeypatch.setattr(FakePool, "release", release)
    assert run()[-1] == DONE
    assert ended(tmp_path / "one")["status"] == "finished"


def test_demonstrations_are_held_to_what_they_were(tmp_path, monkeypatch, capsys):
    data, folder = tmp_path / "data", tmp_path / "one"
    data.mkdir()
    (data / "a.jsonl").write_text("{}\n")
    cfg = load("gp_l_debug", ["name=one", f"cluster.root={tmp_path}", f"sft.data={data}"])
    begins = []

    def begin(cfg, token, model, pool, signals):
        begins.append(model)
        if len(begins) < 3:
            raise RunFailure("an engine was lost")

    monkeypatch.setattr(module, "prepare_model", lambda cfg, folder: "initial")
    monkeypatch.setattr(module, "_run", begin)
    with pytest.raises(RunFailure, match="an engine"):
        train(cfg, pool=FakePool([]))
    with pytest.raises(RunFailure, match="an engine"):
        train(cfg, resume=True, pool=FakePool([]))
    Cursor("sft", step=1).save(folder / "checkpoints", keep=1)
    (data / "a.jsonl").write_text("[]\n[]\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl had 3 bytes when the run began, and has 6"):
        train(cfg, resume=True, pool=FakePool([]))
    assert len(begins) == 2
    Cursor("ppo").save(folder / "checkpoints", keep=1)  # what is not read any more may go
    assert train(cfg, resume=True, pool=FakePool([])) == 0


@pytest.mark.parametrize(
    ("error", "cause"),
    [(ConfigError("no such GPU"), "no such GPU"), (OSError("no disk"), "OSError: no disk")],
)
def test_an_error_of_any_kind_leaves_a_status(run, tmp_path, error, cause):
    with pytest.raises(type(error)):
        run(error)
    assert ended(tmp_path / "one") == {"status": "failed", "cause": cause}


def test_a_run_that_is_killed_after_a_resume_does_not_say_how_it_ended_before(run, tmp_path):
    with pytest.raises(RunFailure):
        run(RunFailure("an engine was lost"))

    def look():
        during.append(ended(tmp_path / "one"))
        return RunFailure("another")

    during = []
    with pytest.raises(RunFailure):
        run(look, resume=True)
    assert during == [{"status": "interrupted", "cause": ""}]  # as of a killed driver


def test_a_report_that_failed_at_a_runs_end_is_written_by_its_resume(run, tmp_path, monkeypatch):
    def full(folder):
        raise OSError(ENOSPC, "no disk")  # not away for a moment

    folder, write = tmp_path / "one", page.write_report
    monkeypatch.setattr(page, "write_report", full)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_run", lambda *given: make_run(folder))
        with pytest.raises(OSError, match="no disk"):
            run()
    assert ended(folder)["status"] == "finished"
    with pytest.raises(OSError, match="no disk"):
        run(resume=True)
    monkeypatch.setattr(page, "write_report", write)
    assert run(resume=True) == []
    assert (folder / "report.html").is_file()


def test_a_finished_run_is_not_started_again(run, tmp_path, capsys):
    run()
    assert run(resume=True) == []
    assert f"{tmp_path / 'one'}: this run has finished" in capsys.readouterr().out


def test_what_a_finished_run_could_not_send_is_sent_by_its_owner(run, monkeypatch):
    def send(cfg, folder):
        with pytest.raises(ConfigError, match="is in use by"), module.Lease(folder):
            pass
        return module.nullcontext(sent.append(folder.name))

    run()
    sent = []
    monkeypatch.setattr(module, "forwarded", send)
    for lacks in (False, True):
        monkeypatch.setattr(module, "unsent", lambda *_, lacks=lacks: lacks)
        assert run(resume=True) == []
    assert sent == ["one"]


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_runs_is_neither_resumed_nor_begun_again(run, tmp_path, resume):
    seen = []

    def beside():
        with pytest.raises(ConfigError, match="the run folder is in use by process"):
            run(resume=resume)
        seen.append(run.done)
        return RunFailure("ends")

    with pytest.raises(RunFailure):
        run(beside)
    assert seen == [[]]
    assert ended(tmp_path / "one")["status"] == "failed"


def test_the_last_lines_are_the_summary_that_was_written(tmp_path, capsys):
    module._show_result(tmp_path)  # a run without a record has none
    assert capsys.readouterr().out == ""
    write_report(make_run(tmp_path / "run", upto="start"))
    module._show_result(tmp_path / "run")
    assert "from the first record to the last" in capsys.readouterr().out


def full_disk():
    return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


@pytest.mark.parametrize(
    ("opened", "cause"),
    [(full_disk, "No space left"), (broken_pipe, "Broken pipe")],
)
def test_a_run_has_finished_even_if_its_result_cannot_be_printed(
    monkeypatch, tmp_path, capsys, opened, cause
):
    write_report(make_run(tmp_path / "run", upto="start"))
    with opened() as full:
        monkeypatch.setattr(sys, "stdout", full)
        module._show_result(tmp_path / "run")
    # Its end is no error either: the process would exit with 120.
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the result is in report.html, not here: " in said
    assert cause in said


def test_nor_if_there_is_no_output_at_all(monkeypatch, tmp_path, capsys):
    write_report(make_run(tmp_path / "run", upto="start"))
    monkeypatch.setattr(sys, "stdout", None)
    module._show_result(tmp_path / "run")
    assert capsys.readouterr().err == ""


def test_a_tiny_model_is_made_once_and_never_in_half(monkeypatch, tmp_path):
    made = []

    def make(cfg, folder):
        assert folder.name == "model.new"
        folder.mkdir()
        made.append(folder)

    monkeypatch.setattr(module, "make_tiny_model", make)
    (tmp_path / "model.new").mkdir()  # of an attempt that was killed
    (tmp_path / "model.new" / "half").write_text("")
    for _ in range(2):
        assert prepare_model(load("gp_l_debug"), tmp_path) == str(tmp_path / "model")
    assert len(made) == 1
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("cursor", "steps", "rendered"),
    [
        (None, 10, True),
        (Cursor("sft", step=3), 10, True),
        (Cursor("ppo"), 10, False),
        (Cursor("done"), 10, False),
        (None, 0, False),
    ],
)
def test_demonstrations_are_rendered_while_sft_is_left(
    monkeypatch, tmp_path, cursor, steps, rendered
):
    monkeypatch.setattr(sft_data, "render_demonstrations", lambda *given: given)
    if cursor:
        cursor.save(tmp_path / "checkpoints", keep=1)
    cfg = load("gp_l_debug", [f"sft.data={tmp_path}", f"sft.steps={steps}", "sft.max_tokens=9"])
    given = (str(tmp_path), "initial", 300.0, 9) if rendered else None
    assert module.render(cfg, tmp_path, "initial") == given


def test_the_users_own_demonstrations_are_read_where_they_lie(tmp_path):
    cfg = load("gp_l_debug", [f"sft.data={tmp_path / 'parquet'}"])
    assert prepare_demonstrations(cfg, tmp_path) == str(tmp_path / "parquet")
