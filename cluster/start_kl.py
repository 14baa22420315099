"""How far a policy is from where it started: KL(start || current) on the start's own episodes.

Input: trajectories of the first evaluation, kept in RUN/start. Output: nats per token. They carry
the start's own log-probabilities, so no copy of its weights is kept.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from configs.schema import RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.parity import parity
from rollout.trajectory import Block, Trajectory, from_block, to_block

EPISODES = 256  # kept, over all ranks
VERSION = 0  # of every run's start


class StartKL:
    """The KL to the start, on one rank's share of the start's episodes.

    folder: the run's, or that of `eval.start`, whose first model is the start.
    """

    def __init__(self, folder: Path, cfg: RunConfig, rank: int) -> None:
        self._folder, self._cfg, self._rank = folder / "start", cfg, rank
        self._kept: list[Trajectory] | None = None

    def keep(self, trajectories: list[Trajectory]) -> None:
        """Keep this rank's episodes of the start, for this run and for those that name it."""
        self._folder.mkdir(exist_ok=True)
        kept = trajectories[: EPISODES // self._cfg.learner.ranks]
        for name, batch in to_block(kept)._asdict().items():
            file = self._folder / f"{name}-{self._rank}.arrow"
            with pa.ipc.new_file(str(file), batch.schema) as writer:
                writer.write_batch(batch)
        self._kept = None
        distributed.barrier()

    def kl(self, engine: TrainingEngine) -> float | None:
        """KL(start || current), nats per token (k3 over the start's samples), or None without any.

        On the task that the start was first evaluated on; what is forgotten elsewhere follows it
        (Shenfeld et al., "RL's Razor", 2025, arXiv 2509.04259). A collective call.
        """
        if self._kept is None:
            files = sorted(self._folder.glob("trajectories-*.arrow"))
            kept = [t for file in files for t in from_block(_read(file))]
            self._kept = kept[self._rank :: self._cfg.learner.ranks]
        if not any(distributed.all_gather(len(self._kept))):
            return None  # its start was evaluated at another temperature, or by an older version
        return parity(engine, self._kept, self._cfg, VERSION)["parity_kl"]


def _read(file: Path) -> Block:
    pictures = file.with_name(file.name.replace("trajectories", "pictures"))
    return Block(*(pa.ipc.open_file(pa.memory_map(str(f))).get_batch(0) for f in (file, pictures)))
