"""A run's folder: which files lie in it, and the two by which processes tell how the run ends."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.failures import PlacementError
from cluster.run.lease import FOLDER as LEASE
from cluster.run.lease import Token, refuse_if_owned
from configs.disk import replace_file
from configs.load import ConfigError, dump
from configs.schema import RunConfig
from report.metrics import METRICS, read_object

# What is in a run folder, and the file that writes it, of cluster/ where no other is named:
#   config.yaml                 the resolved configuration             here
#   lease/                      who writes the folder                  run/lease.py
#   model/                      the initial model, where one is made   driver/train.py
#   demonstrations/             Parquet, where the expert writes them  demonstrations/writer.py
#   data.json                   what was at sft.data                   demonstrations/fingerprint.py
#   floors.json                 what policies without a model score    phases/floors.py
#   metrics.jsonl               one record per step, update, publish, phase report/metrics.py
#   episodes.jsonl              sample conversations of evaluations    report/metrics.py
#   outcomes.jsonl              one row per evaluated episode          report/metrics.py
#   tensorboard/                the metrics again                      report/metrics.py
#   trace/                      what each process did when             report/spans.py
#   tracker.jsonl, wandb/       what was sent to cfg.tracker           report/tracker.py
#   start/                      the start's episodes, for the KL to it phases/start_kl.py
#   blocks/                     what PPO trained on, with ppo.record   stream/recorded_blocks.py
#   checkpoints/{sft,sft-N,ppo,best} Hugging Face folders                  the phases
#   checkpoints/state/          the cursor, resumable states           checkpoints/checkpointer.py
#   ray_train/                  Ray Train's own                        driver/learner_group.py
#   failure.json                why learner ranks end the run          here
#   losses.json                 why learner groups were lost since a checkpoint here
#   controller.json             the last sign of Ray Train's controller driver/group_watch.py
#   logs/                       of a failed run's processes on this machine run/logs.py
#   status.json                 how the run ended                      here
#   evaluations.jsonl           of `cardinal eval`                     driver/evaluate_run.py
#   summary.json, report.*      what the run came to                   report/page.py
CONFIG, FAILURE, STATUS = "config.yaml", "failure.json", "status.json"
LOSSES, CONTROLLER = "losses.json", "controller.json"
BEGUN = (METRICS, STATUS, LEASE, "model", "checkpoints")  # one tells a run from a project's folder


def folder_of(cfg: RunConfig) -> Path:
    """The run's folder, absolute, whatever is there."""
    return (Path(cfg.cluster.root) / cfg.name).resolve()


def run_folder(cfg: RunConfig) -> Path:
    """The folder of a new run, absolute.

    Raises:
        ConfigError: it is in use, holds something already, is a file, or cannot be read.
    """
    folder = folder_of(cfg)
    try:
        refuse_if_owned(folder)
        taken = folder.exists() and (
            not folder.is_dir() or any(file.name != LEASE for file in folder.iterdir())
        )
    except OSError as error:  # below a folder that this user may not enter, or too long a name
        raise ConfigError(
            f"cluster.root={cfg.cluster.root}: the run folder {folder} cannot be read: "
            f"{error.strerror or error}; it must be a folder that this user may read and write"
        ) from error
    if taken:
        raise ConfigError(
            f"name={cfg.name}: the run folder {folder} is taken; choose another name, "
            f"or go on with `cardinal resume {folder}`"
        )
    return folder


def is_run_folder(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return (folder / CONFIG).is_file() and any((folder / made).exists() for made in BEGUN)


def check_root(cfg: RunConfig, nodes: int) -> None:
    """Refuse a run folder that other nodes would look for in a folder of their own.

    Args:
        cfg: the run.
        nodes: number of nodes that it spans.

    Raises:
        PlacementError: it spans several and cluster.root is relative.
    """
    if nodes > 1 and not Path(cfg.cluster.root).is_absolute():
        raise PlacementError(
            f"cluster.root={cfg.cluster.root}: the run spans {nodes} nodes without shared "
            "storage, for a relative folder is each node's own; an absolute one that all nodes "
            "see would do"
        )


def open_folder(cfg: RunConfig, resume: bool) -> Path:
    """The run folder, absolute; a new one is made.

    Raises:
        ConfigError: the folder is taken, or there is nothing to resume.
    """
    if resume:
        folder = folder_of(cfg)
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"resume: {folder} holds no config.yaml, so it is no run folder")
        return folder
    folder = run_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_config(cfg: RunConfig, folder: Path) -> None:
    """Write the resolved configuration; a resume may go on with other machines."""
    replace_file(folder / CONFIG, dump(cfg))


def ppo_start(checkpoints: Path, model: str) -> str:
    """Folder of the model that PPO begins with: the SFT checkpoint, or the initial model."""
    sft = checkpoints / "sft"
    return str(sft) if sft.is_dir() else model


def write_failure(token: Token, cause: str) -> None:
    """Tell the driver why the run ends; called by the learner rank that found out.

    Raises:
        LeaseLost: another run has the folder: this failure is not its.
    """
    token.check()
    replace_file(Path(token.folder, FAILURE), json.dumps({"cause": cause}))


def read_failure(folder: Path) -> str | None:
    """The cause that a learner rank wrote, or None while there is none."""
    file = folder / FAILURE
    return str(json.loads(file.read_text())["cause"]) if file.exists() else None


def clear_failure(folder: Path) -> None:
    """Forget the failure of an earlier attempt."""
    (folder / FAILURE).unlink(missing_ok=True)


def write_losses(token: Token, place: str, causes: list[str]) -> None:
    """Tell the next learner group why this one was lost, and keep why others were before it.

    Args:
        token: the right to write the run folder.
        place: where the run stands; the losses at another one count no more.
        causes: of all losses at this place.

    Raises:
        LeaseLost: another run has the folder.
    """
    token.check()
    content = {"place": place, "causes": causes, "told": False}
    replace_file(Path(token.folder, LOSSES), json.dumps(content))


def read_losses(folder: Path, place: str) -> list[str]:
    """Why learner groups were lost at a place of the run, first one first."""
    losses = read_object(folder / LOSSES)
    return list(losses["causes"]) if losses.get("place") == place else []


def take_loss(folder: Path) -> str | None:
    """Why the group before this one was lost, once; None where nobody knows."""
    losses = read_object(folder / LOSSES)
    if losses.get("told", True):
        return None
    replace_file(folder / LOSSES, json.dumps(losses | {"told": True}))
    return str(losses["causes"][-1])


def clear_losses(folder: Path) -> None:
    """Forget the losses of an earlier attempt."""
    (folder / LOSSES).unlink(missing_ok=True)


def clear_status(folder: Path) -> None:
    """Forget how an earlier attempt ended: a run that is killed from now on says nothing."""
    (folder / STATUS).unlink(missing_ok=True)


def write_status(folder: Path, status: str, cause: str = "") -> None:
    """How the run ended: finished, interrupted or failed; `report.summary.ended` reads it."""
    replace_file(folder / STATUS, json.dumps({"status": status, "cause": cause}))
