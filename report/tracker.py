"""A run's numbers sent to Weights & Biases or MLflow as they are written to metrics.jsonl.

Each reads its own environment variables: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, …
The run folder's tracker.jsonl has what was sent, so that a resume sends nothing twice.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from uuid import uuid4

from configs.load import ConfigError
from configs.schema import RunConfig
from report.metrics import METRICS, Record, append, read_lines, scalars, step_of
from report.progress import Tail

SENT = "tracker.jsonl"
PROJECT = "cardinal"  # where the user's environment names none
SENT_KINDS = ("sft", "ppo", "eval", "sync")
EVERY_S = 1.0
AGAIN_S = 10.0  # after an error
END_S = 30.0  # for the last records to be sent
VARIABLES = ("MLFLOW_", "WANDB_", "DATABRICKS_")  # of trackers
SHORT = 4  # letters; a secret of fewer is found in other words


class Tracker(Protocol):
    """Where numbers are sent; each call may take as long as a network does."""

    def log(self, kind: str, step: int, seconds: float, numbers: dict[str, float]) -> None:
        """Send the numbers of one record, by their tags; seconds: when it was written, Unix."""

    def end(self, well: bool) -> None:
        """No more is sent; `well`: the run has finished."""


class WandB:
    """A run of Weights & Biases, continued where it was begun before."""

    def __init__(self, cfg: RunConfig, folder: Path, run: str) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=cfg.name,
            id=run,
            dir=str(folder),
            resume="allow",
            config=asdict(cfg),
            settings=wandb.Settings(console="off"),  # the terminal shows the progress
        )
        for kind in SENT_KINDS:
            self._run.define_metric(f"{kind}/at")
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/at")

    def log(self, kind: str, step: int, seconds: float, numbers: dict[str, float]) -> None:
        """See Tracker; `KIND/at` is the axis of a kind's numbers."""
        self._run.log(numbers | {f"{kind}/at": step})

    def end(self, well: bool) -> None:
        """See Tracker."""
        self._run.finish(exit_code=0 if well else 1)


class MLflow:
    """A run of MLflow, continued where it was begun before."""

    def __init__(self, cfg: RunConfig, folder: Path, run: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        same = self._client.search_runs([number], f"tags.cardinal = '{run}'")
        tags = {"cardinal": run, "folder": str(folder)}
        if same:
            self._run = same[0].info.run_id
        else:
            self._run = self._client.create_run(number, run_name=cfg.name, tags=tags).info.run_id
        self._client.log_dict(self._run, asdict(cfg), "config.json")

    def log(self, kind: str, step: int, seconds: float, numbers: dict[str, float]) -> None:
        """See Tracker; what MLflow allows in no name becomes an underscore."""
        from mlflow.entities import Metric

        milliseconds = int(seconds * 1000)
        metrics = [
            Metric(re.sub(r"[^\w\-. :/]", "_", tag), number, milliseconds, step)
            for tag, number in numbers.items()
        ]
        for begin in range(0, len(metrics), 1000):  # MLflow's bound of a batch
            self._client.log_batch(self._run, metrics[begin : begin + 1000])

    def end(self, well: bool) -> None:
        """See Tracker."""
        self._client.set_terminated(self._run, "FINISHED" if well else "FAILED")


TRACKERS: dict[str, Callable[[RunConfig, Path, str], Tracker]] = {"wandb": WandB, "mlflow": MLflow}


class Forwarding:
    """A run's records on their way to a tracker, each once."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name, self._file = name, folder / SENT
        self._tail = Tail(folder / METRICS)
        self._unsent: list[Record] = []
        own = [line for line in read_lines(self._file) if line["tracker"] == name]
        self._sent = {line["sent"] for line in own if "sent" in line}

    def unsent(self) -> list[Record]:
        """What has been written and is not sent yet."""
        self._unsent += [r for r in self._tail.read() if r["kind"] in SENT_KINDS]
        self._unsent = [r for r in self._unsent if _identity(r) not in self._sent]
        return self._unsent

    def send(self, tracker: Tracker) -> None:
        """Send it; what the tracker does not take stays."""
        for record in self.unsent():
            name = _identity(record)
            if name in self._sent:
                continue  # written again by a resume
            tracker.log(record["kind"], step_of(record), record["time"], dict(scalars(record)))
            self._sent.add(name)
            append(self._file, {"tracker": self._name, "sent": name})


def _identity(record: Record) -> str:
    """What a record is of; one that is written again after a resume has the same."""
    keys: tuple[str, ...] = ("kind", "stage", "variant", "step", "update")
    if record["kind"] == "sync":  # one version may be published several times
        keys = ("kind", "version", "elapsed_s")
    return " ".join(str(record.get(key, "")) for key in keys)


@contextmanager
def forwarded(cfg: RunConfig, folder: Path) -> Iterator[None]:
    """Send the run's records to its tracker while what is inside lasts, from a thread.

    Raises:
        ConfigError: the tracker cannot be opened; later errors are printed, and sending goes on.
    """
    if cfg.tracker == "none":
        yield
        return
    forwarding, tracker = Forwarding(folder, cfg.tracker), _open(cfg, folder)
    ended, well = threading.Event(), False

    def run() -> None:
        pause_s, told = EVERY_S, False
        while not ended.wait(pause_s):
            why = _cause(lambda: forwarding.send(tracker))
            pause_s = AGAIN_S if why else EVERY_S
            if why and not told:
                told = True
                _tell(f"{folder}: {cfg.tracker}: {why}; it is tried again every {AGAIN_S:g} s")
        if why := _cause(lambda: forwarding.send(tracker)):
            rest = "metrics.jsonl has the rest, and `cardinal resume` sends it"
            _tell(f"{folder}: not all is sent to {cfg.tracker}: {why}; {rest}")
        if why := _cause(lambda: tracker.end(well)):
            _tell(f"{folder}: {cfg.tracker} did not end: {why}")

    thread = threading.Thread(target=run, name=cfg.tracker, daemon=True)
    thread.start()
    try:
        yield
        well = True
    finally:
        ended.set()
        thread.join(END_S)
        if thread.is_alive():
            _tell(f"{folder}: {cfg.tracker} did not end within {END_S:g} s")


def unsent(cfg: RunConfig, folder: Path) -> bool:
    """Whether the run's tracker lacks any of its records."""
    return cfg.tracker != "none" and bool(Forwarding(folder, cfg.tracker).unsent())


def _cause(work: Callable[[], None]) -> str:
    """Why a tracker did not do its work; "" if it did."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the boundary to a tracker; the run goes on
        return _first_line(error)
    return ""


def _tell(words: str) -> None:
    print(words, file=sys.stderr)


def _open(cfg: RunConfig, folder: Path) -> Tracker:
    own = [line for line in read_lines(folder / SENT) if line["tracker"] == cfg.tracker]
    run = own[0]["run"] if own else uuid4().hex[:12]
    if not own:
        append(folder / SENT, {"tracker": cfg.tracker, "run": run})
    try:
        return TRACKERS[cfg.tracker](cfg, folder, run)
    except Exception as error:  # the boundary to a tracker: no key, no network, a wrong address
        words = f"tracker={cfg.tracker}: it does not start: {_first_line(error)}"
        raise ConfigError(words) from error


def _first_line(error: Exception) -> str:
    """An error's first line, without what the tracker's variables hold: it goes into records."""
    kind, text = type(error).__name__, str(error).strip().partition("\n")[0]
    hidden = _secrets()
    if any(len(secret) < SHORT and secret in text for secret in hidden):
        return kind  # letters that stand in other words too
    if hidden:
        longest_first = sorted(map(re.escape, hidden), key=len, reverse=True)
        text = re.sub("|".join(longest_first), lambda found: f"<{hidden[found[0]]}>", text)
    return f"{kind}: " + re.sub(r"(?<=://)\S*@", "", text)


def _secrets() -> dict[str, str]:
    """What nobody may read, and its variable: passwords and keys, of an address its own."""
    hidden: dict[str, str] = {}
    for name, value in os.environ.items():
        if not name.startswith(VARIABLES):
            continue
        secrets = [value] if re.search("PASSWORD|TOKEN|KEY|SECRET|AUTH", name) else []
        address = value.partition("://")[2]
        user, _, password = address.rpartition("@")[0].partition(":")
        secrets += [password or user, *(word for _, word in parse_qsl(urlsplit(value).query))]
        for secret in filter(None, map(str.strip, secrets)):
            hidden |= dict.fromkeys((secret, unquote(secret), quote(secret, safe="")), name)
    return hidden
