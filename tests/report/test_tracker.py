"""Records go to a tracker once each, whatever happens; the real packages take them."""

import threading
import time

import pytest

from configs.load import ConfigError, load
from report import tracker as module
from report.metrics import RunLog, read_lines
from report.tracker import SENT, Forwarding, forwarded, unsent


class FakeTracker:
    """Keeps what it is sent; breaks at a tag."""

    def __init__(self, cfg=None, folder=None, run="", breaks=None):
        self.run, self.breaks = run, breaks
        self.logged, self.ended, self.refused = [], [], 0

    def log(self, kind, step, seconds, numbers):
        if self.breaks in numbers:
            self.refused += 1
            raise ConnectionError("the network is away\nand more")
        self.logged.append((kind, step, numbers))

    def end(self, well):
        self.ended.append(well)


@pytest.fixture
def opened(monkeypatch):
    """The trackers that were opened, as `tracker=wandb`."""
    made = []

    def open_one(cfg, folder, run):
        made.append(FakeTracker(cfg, folder, run))
        return made[-1]

    monkeypatch.setitem(module.TRACKERS, "wandb", open_one)
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    return made


def config(tracker):
    return load("gp_l_debug", [f"tracker={tracker}"])


def write(log, *updates):
    for update in updates:
        log.write("ppo", update=update, reward=update / 10, engine_idle=[0.5], note="text")


def test_numbers_are_sent_with_their_step(tmp_path):
    tracker = FakeTracker()
    forwarding = Forwarding(tmp_path, "wandb")
    forwarding.send(tracker)  # before there is any record
    log = RunLog(tmp_path)
    log.write("phase", phase="ppo", event="begin")
    write(log, 3)
    log.write("eval", stage="sft", variant="train", success=0.25)
    forwarding.send(tracker)
    forwarding.send(tracker)
    assert tracker.logged == [
        ("ppo", 3, {"ppo/reward": 0.3, "ppo/engine_idle/0": 0.5}),
        ("eval", 0, {"eval/train/success": 0.25}),
    ]


def test_a_resume_sends_what_is_new_and_nothing_twice(tmp_path):
    log, first = RunLog(tmp_path), FakeTracker()
    write(log, 1, 2, 3)
    Forwarding(tmp_path, "wandb").send(first)
    log = RunLog(tmp_path, keep=lambda r: r["update"] <= 1)  # 2 and 3 are played again
    write(log, 2, 3, 4)
    again = FakeTracker()
    Forwarding(tmp_path, "wandb").send(again)
    assert [step for _, step, _ in first.logged] == [1, 2, 3]
    assert [step for _, step, _ in again.logged] == [4]
    other = FakeTracker()
    Forwarding(tmp_path, "mlflow").send(other)
    assert [step for _, step, _ in other.logged] == [1, 2, 3, 4]


def test_a_version_may_be_published_several_times(tmp_path):
    tracker, log = FakeTracker(), RunLog(tmp_path)
    log.write("sync", version=0, seconds=1.0)
    time.sleep(0.002)
    log.write("sync", version=0, seconds=2.0)
    Forwarding(tmp_path, "wandb").send(tracker)
    assert [numbers["sync/seconds"] for _, _, numbers in tracker.logged] == [1.0, 2.0]


def test_records_are_sent_while_a_run_lasts_and_the_last_ones_at_its_end(tmp_path, opened):
    with forwarded(config("wandb"), tmp_path):
        write(RunLog(tmp_path), 1)
        (tracker,) = opened
        until(lambda: len(tracker.logged) == 1)
        write(RunLog(tmp_path), 2)
    assert [step for _, step, _ in tracker.logged] == [1, 2]
    assert tracker.ended == [True]


def test_a_run_is_one_run_of_the_tracker_over_its_resumes(tmp_path, opened):
    with pytest.raises(KeyboardInterrupt), forwarded(config("wandb"), tmp_path):
        raise KeyboardInterrupt
    with forwarded(config("wandb"), tmp_path):
        pass
    first, second = opened
    assert first.run == second.run
    assert len(first.run) == 12
    assert (first.ended, second.ended) == ([False], [True])


def until(reached):
    deadline = time.monotonic() + 120
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reached()


def test_what_a_tracker_does_not_take_is_sent_once_it_does(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    told = []
    monkeypatch.setattr(module, "_tell", told.append)
    log = RunLog(tmp_path)
    with forwarded(config("wandb"), tmp_path):
        (tracker,) = opened
        write(log, 1)
        until(lambda: tracker.logged)
        tracker.breaks = "ppo/reward"
        write(log, 2, 3)
        until(lambda: tracker.refused > 3)
        tracker.breaks = None
        until(lambda: len(tracker.logged) == 3)
        write(log, 4)
    assert [step for _, step, _ in tracker.logged] == [1, 2, 3, 4]
    assert tracker.ended == [True]
    assert told == [
        f"{tmp_path}: wandb: ConnectionError: the network is away; it is tried again every 0.05 s"
    ]


def test_after_an_error_it_is_not_tried_at_once(tmp_path, opened):
    with forwarded(config("wandb"), tmp_path):
        opened[0].breaks = "ppo/reward"
        write(RunLog(tmp_path), 1)
        until(lambda: opened[0].refused)
        time.sleep(0.1)
        assert opened[0].refused == 1


def test_what_a_run_could_not_send_is_known_and_sent_later(tmp_path, opened, capsys):
    with forwarded(config("wandb"), tmp_path):
        write(RunLog(tmp_path), 1)
        until(lambda: opened[0].logged)
        opened[0].breaks = "sft/loss"
        RunLog(tmp_path, keep=lambda _: True).write("sft", step=2, loss=0.5)
    assert capsys.readouterr().err.endswith(
        f"{tmp_path}: not all is sent to wandb: ConnectionError: the network is away; "
        "metrics.jsonl has the rest, and `cardinal resume` sends it\n"
    )
    assert opened[0].ended == [True], "it is told all the same"
    lacks = [unsent(config(name), tmp_path) for name in ("none", "wandb", "mlflow")]
    assert lacks == [False, True, True]
    with forwarded(config("wandb"), tmp_path):
        pass
    assert [tracker.logged[-1][:2] for tracker in opened] == [("ppo", 1), ("sft", 2)]
    assert not unsent(config("wandb"), tmp_path)


def test_one_that_breaks_at_its_end_is_told(tmp_path, opened, capsys):
    with forwarded(config("wandb"), tmp_path):
        opened[0].end = None
    assert f"{tmp_path}: wandb did not end: TypeError: " in capsys.readouterr().err


def test_one_that_does_not_end_is_told(tmp_path, opened, capsys, monkeypatch):
    monkeypatch.setattr(module, "END_S", 0.05)
    over = threading.Event()
    with forwarded(config("wandb"), tmp_path):
        monkeypatch.setattr(opened[0], "end", lambda well: over.wait(60))
    over.set()
    assert "wandb did not end within 0.05 s" in capsys.readouterr().err


def test_one_that_does_not_start_is_one_sentence(tmp_path, monkeypatch):
    def refuses(cfg, folder, run):
        raise RuntimeError("no API key configured\nUse `wandb login`")

    monkeypatch.setitem(module.TRACKERS, "wandb", refuses)
    with pytest.raises(ConfigError) as refused, forwarded(config("wandb"), tmp_path):
        pass
    assert str(refused.value) == (
        "tracker=wandb: it does not start: RuntimeError: no API key configured"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "MLFLOW_TRACKING_URI",
            "https://me:p%40ss@h:9000/",
            "https://me:p%40ss@h:9000/a failed",
        ),
        ("MLFLOW_TRACKING_URI", "https://me:p%40ss@h", "no access with 'p@ss' at h"),
        ("MLFLOW_TRACKING_URI", "https://me:pass@h", "proxy http://else:where@h2 refused"),
        ("MLFLOW_TRACKING_PASSWORD", "hunter2", "401: me:hunter2"),
        ("MLFLOW_TRACKING_TOKEN", "abc?d", "401: Bearer abc%3Fd"),
        ("WANDB_API_KEY", "k" * 40, f"key {'k' * 40} is not known"),
        ("WANDB_API_KEY", "hunter2\n", "key hunter2 is not known"),
        ("MLFLOW_TRACKING_URI", "http://me:p%40ss@hunter2@h", "http://me:p%40ss@hunter2@h failed"),
        ("MLFLOW_TRACKING_URI", "http://me:hunter2/2@h", "http://me:hunter2/2@h/x failed"),
        ("MLFLOW_TRACKING_URI", "http://h/x?token=hunter2", "token hunter2 of h is too old"),
        ("MLFLOW_TRACKING_URI", "http://hunter2@h", "no access with hunter2"),
        ("DATABRICKS_TOKEN", "hunter2", "401: hunter2"),
    ],
)
def test_no_secret_of_a_trackers_stands_in_its_error(tmp_path, monkeypatch, name, value, said):
    def refuse(cfg, folder, run):
        raise RuntimeError(said)

    monkeypatch.setenv(name, value)
    monkeypatch.setitem(module.TRACKERS, "mlflow", refuse)
    with (
        pytest.raises(ConfigError, match="it does not start: RuntimeError: ") as raised,
        forwarded(config("mlflow"), tmp_path),
    ):
        pass
    words = str(raised.value)
    for secret in ("p%40ss", "p@ss", "else:where", "hunter2", "abc?d", "abc%3Fd", "kkkk"):
        assert secret not in words
    if "@h2" not in said and "://" not in said:
        assert f"<{name}>" in words


def test_a_secret_of_a_letter_or_two_leaves_no_sentence(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")
    assert module._first_line(RuntimeError("a bad day")) == "RuntimeError"
    assert module._first_line(RuntimeError("no room")) == "RuntimeError: no room"


def test_no_secret_is_looked_for_in_the_names_that_stand_for_others(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "MLFLOW")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    words = module._first_line(RuntimeError("hunter2 of MLFLOW"))
    assert words == "RuntimeError: <MLFLOW_TRACKING_TOKEN> of <MLFLOW_TRACKING_PASSWORD>"


def test_what_is_no_secret_is_told(tmp_path, monkeypatch):
    def refuse(cfg, folder, run):
        raise RuntimeError("http://h:9000 refused experiment cards of run 1")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:9000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cards")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setitem(module.TRACKERS, "mlflow", refuse)
    with (
        pytest.raises(ConfigError, match=r"http://h:9000 refused experiment cards of run 1$"),
        forwarded(config("mlflow"), tmp_path),
    ):
        pass


def test_without_one_nothing_is_written(tmp_path):
    with forwarded(config("none"), tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wandb():
    """The package, which reads its environment once."""
    package = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    package.teardown()
    yield package
    package.teardown()


def test_wandb_itself_without_a_network(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for update in (1, 2):
        with forwarded(config("wandb"), tmp_path):
            write(RunLog(tmp_path), update)
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    written = b"".join(file.read_bytes() for file in files)
    run = read_lines(tmp_path / SENT)[0]["run"]
    assert run.encode() in written
    assert b"ppo/engine_idle/0" in written
    assert [line["sent"] for line in read_lines(tmp_path / SENT)[1:]] == ["ppo    1", "ppo    2"]


def test_wandb_without_a_key_is_refused(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    refused = pytest.raises(ConfigError, match=r"tracker=wandb: it does not start: .*API key")
    with refused, forwarded(config("wandb"), tmp_path):
        pass


def test_mlflow_itself(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # its artifacts are beside
    for update in (1, 2):
        with forwarded(config("mlflow"), tmp_path):
            log = RunLog(tmp_path)
            write(log, update)
            log.write("eval", stage="sft", variant=f"two [{update}]", success=0.5)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("cardinal")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "ppo/reward")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]
    assert run.data.metrics["eval/two _2_/success"] == 0.5


def test_both_names_of_the_key_have_one():
    from configs.schema import TRACKERS

    assert set(TRACKERS) == {"none", *module.TRACKERS}
