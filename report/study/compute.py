"""What a run spent, and the runs that its model comes from: tokens and FLOPs by phase.

Counted are linear layers, the output layer and attention; what is left out is said in
docs/study.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.load import ConfigError
from configs.model_folder import check_model
from configs.study import PRETRAIN, StudyConfig
from report import flops
from report.metrics import Record, read
from report.summary import load_config

Sources = Mapping[str, tuple[str | None, int | None]]  # arm to the one before it and its SFT step


@dataclass(frozen=True)
class Spent:
    """Tokens and FLOPs of SFT, of PPO's learning, and of what was sampled or scored.

    formula_flops: by the paper's formula. FLOPs are nan where no model folder is left to size.
    """

    sft_tokens: float = 0.0
    ppo_tokens: float = 0.0
    played_tokens: float = 0.0
    sft_flops: float = 0.0
    ppo_flops: float = 0.0
    played_flops: float = 0.0
    formula_flops: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(**{name: n + getattr(other, name) for name, n in asdict(self).items()})

    @property
    def flops(self) -> float:
        """Of all phases."""
        return self.sft_flops + self.ppo_flops + self.played_flops


def whole_config(run: Path) -> Record:
    """A run's configuration; empty where it is not begun.

    Raises:
        ConfigError: the file is damaged, or a part of it is missing.
    """
    cfg = load_config(run)
    for section in ("model", "env", "sft", "ppo"):
        if cfg and not isinstance(cfg.get(section), dict):
            raise ConfigError(f"{run / 'config.yaml'}: {section} is missing; a run writes it whole")
    return cfg


def along(run: Path) -> Iterator[tuple[Record, Spent]]:
    """A run's records with what it had spent by then; what its model had cost is left out.

    Raises:
        ConfigError: a file of the run is damaged.
    """
    cfg = whole_config(run)
    if not cfg:  # not begun
        return
    size, parameters = _size(run, cfg)
    reread = flops.REREAD.get(str(cfg["env"]["id"]).rpartition(":")[2], math.nan)
    total, step = Spent(), 0
    for record in read(run):
        if record["kind"] == "sft":
            trained = record["tokens_trained"]
            sequences = (record["step"] - step) * cfg["sft"]["batch_size"]
            lengths = trained / sequences, record["action_tokens"] / record["tokens"]
            scored = trained if cfg["sft"]["loss"] == "ce_kl" else 0.0
            step = record["step"]
            total += Spent(
                sft_tokens=trained,
                played_tokens=scored,
                sft_flops=flops.training(size, trained, *lengths),
                played_flops=flops.forward(size, scored, *lengths),
                formula_flops=flops.paper(parameters, trained, 0, 0),
            )
        elif record["kind"] == "ppo":
            trained, played = _of_update(record, cfg["ppo"])
            # Records of old say turns alone, which are segments where a trial has one answer.
            sequences = record.get("segments") or record["turns"]
            lengths = record["tokens"] / sequences, record["action_tokens"] / record["tokens"]
            total += Spent(
                ppo_tokens=trained,
                played_tokens=played,
                ppo_flops=flops.training(size, trained, *lengths),
                played_flops=flops.forward(size, played, *lengths),
                formula_flops=flops.paper(parameters, 0, trained, reread),
            )
        yield record, total


def matched_steps(study: StudyConfig, arm: str, seed: int) -> int:
    """SFT steps, or PPO's updates, of an arm with `match`: as many as that arm's FLOPs pay for.

    Raises:
        ConfigError: what was spent, or what a step or update costs, is not known.
    """
    this = study.arms[arm]
    assert this.match is not None
    run = study.folder / study.measured(arm)[0] / f"seed{seed}"
    spend = until(study.folder / this.match / f"seed{seed}").flops
    step = _cost_of_update(run) if this.matched == "ppo.updates" else _cost(study, arm, seed, run)
    if not math.isfinite(spend + step):
        raise ConfigError(
            f"arms.{arm}.match={this.match}: its FLOPs, or those of {this.matched} in {run}, are "
            "not known, for records or model are gone"
        )
    return max(1, round(spend / step))


def _cost(study: StudyConfig, arm: str, seed: int, run: Path) -> float:
    """FLOPs of an SFT step of an arm, from another's run; nan where that has none."""
    cfg, measured = study.run(arm, seed).sft, study.run(run.parent.name, seed).sft
    done = [
        (record["step"], spent.sft_flops) for record, spent in along(run) if record["kind"] == "sft"
    ]
    if not done:
        return math.nan
    steps, sft = done[-1]
    a_demonstration = sft / (steps * measured.batch_size)
    return a_demonstration * cfg.batch_size * (4 / 3 if cfg.loss == "ce_kl" else 1)


def _cost_of_update(run: Path) -> float:
    """FLOPs of one of a run's PPO updates, their mean; nan where it has none."""
    updates = [spent.flops for record, spent in along(run) if record["kind"] == "ppo"]
    return updates[-1] / len(updates) if updates else math.nan


def _of_update(record: Record, ppo: Record) -> tuple[float, float]:
    """Tokens that a PPO update learned from, and that were read besides: of all trajectories as
    they were played, of those that it learned from to score them.
    """
    tokens = record["tokens"]
    minibatches = math.ceil(record["episodes"] / ppo["minibatch"])
    epochs = record["steps"] / minibatches  # fewer than ppo.epochs where target_kl ended them
    # Records of old do not say how often they were scored: once by each policy.
    scored = record.get("tokens_scored", (2 if ppo["kl_coef"] else 1) * tokens)
    return epochs * tokens, record.get("tokens_played", tokens) + scored


def until(run: Path, at: int | None = None) -> Spent:
    """What a run spent until an SFT step, or until its last record."""
    total = Spent()
    for record, spent in along(run):
        total = spent
        if at is not None and record["kind"] == "sft" and record["step"] >= at:
            break
    return total


def columns(own: Spent, earlier: Spent) -> dict[str, float | None]:
    """A table's columns: of a run alone, of its whole chain, and the chain's by the formula."""
    chain = asdict(earlier + own)
    formula = {"formula_flops": chain.pop("formula_flops")}
    found = {name: getattr(own, name) for name in chain}
    found |= {f"chain_{name}": value for name, value in chain.items()} | formula
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def before(study: Path, sources: Sources, arm: str, seed: int) -> Spent:
    """What had been spent on the model that an arm begins with; a pretrained one costs nothing."""
    source, at = sources[arm]
    if source is None or source.startswith(PRETRAIN):
        return Spent()
    own = until(study / source / f"seed{seed}", at)
    return before(study, sources, source, seed) + own


def _size(run: Path, cfg: Record) -> tuple[flops.Size, float]:
    """Of the run's model, and the number of its parameters; nan where none of it is left here.

    The model that it began with may be a hub's, or gone; a checkpoint has the same sizes.
    """
    kept = [run / "checkpoints" / name for name in ("ppo", "sft")]
    places = [run / "model", Path(cfg["model"]["path"] or run), *kept]
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        return flops.Size(math.nan), math.nan
    known = check_model(folder)
    matrices = sum(math.prod(shape) for shape in known.matrices.values())
    output = known.vocabulary * known.hidden
    size = flops.Size(matrices, output, known.layers, known.hidden)
    return size, sum(known.parameters.values())
