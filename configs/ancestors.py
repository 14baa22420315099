"""The runs that a run continues: from its model folder back to a model that no run made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from configs.load import ConfigError, load
from configs.schema import RunConfig
from configs.seeds import demonstration_seeds, evaluation_seeds, intersect, ppo_seeds


def ancestors(cfg: RunConfig) -> Iterator[RunConfig]:
    """The configurations of the runs that trained this one's initial model, newest first.

    A run's checkpoints are RUN/checkpoints/NAME beside RUN/config.yaml; any other folder, and a
    model of a hub, comes from no run of ours.

    Raises:
        ConfigError: one of them has a configuration that can no longer be read.
    """
    seen = set[Path]()
    while cfg.model.path is not None:
        folder = Path(cfg.model.path).resolve().parent
        file = folder.parent / "config.yaml"
        if folder.name != "checkpoints" or not file.is_file() or file in seen:
            return
        seen.add(file)
        try:
            cfg = load(file, allow_no_training=True)
        except ConfigError as error:
            raise ConfigError(
                f"model.path comes from the run of {file}, which cannot be read: {error}"
            ) from error
        yield cfg


def check_ancestors(cfg: RunConfig) -> None:
    """Refuse an evaluation on seeds that a run before this one was trained on.

    Raises:
        ConfigError: names eval.seed, both ranges and that run.
    """
    evaluated = evaluation_seeds(cfg)
    for before in ancestors(cfg):
        trained = {"sft": demonstration_seeds(before), "ppo": ppo_seeds(before)}
        for phase, seeds in trained.items():
            if intersect(evaluated, seeds):
                raise ConfigError(
                    f"eval.seed={cfg.eval.seed}: evaluation plays seeds {evaluated.start} to "
                    f"{evaluated.stop - 1}, and {phase} of run {before.name}, which this one "
                    f"continues, trained on {seeds.start} to {seeds.stop - 1}; they must not meet"
                )
