"""How far a policy is from where it started: KL(start || current) on the start's own episodes.

Input: trajectories of the first evaluation, kept in RUN/start. Output: nats per token. They carry
the start's own log-probabilities, so no copy of its weights is kept.
"""

from __future__ import annotations

from pathlib import Path

from cluster.failures import RunFailure
from configs.schema import RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.parity import parity
from rollout.block_files import parts, read_block, remove_parts, write_block
from rollout.trajectory import Trajectory

EPISODES = 256  # kept at most, over all ranks, but one of each question at least
VERSION = 0  # of every run's start


class StartKL:
    """The KL to the start, on one rank's share of the start's episodes.

    folder: the run's, or that of `eval.start`, whose first model is the start.
    """

    def __init__(self, folder: Path, cfg: RunConfig, rank: int) -> None:
        self._folder, self._cfg, self._rank = folder / "start", cfg, rank
        self._kept: list[Trajectory] | None = None

    def keep(self, trajectories: list[Trajectory]) -> None:
        """Keep episodes of the start, for this run and for those that name it; a collective call.

        As many of each question, whichever rank holds them: those of one question are alike.
        """
        shares = distributed.all_gather([(t.group_id, t.id) for t in trajectories])
        chosen = _of_each_question([pair for share in shares for pair in share])
        kept = [t for t in trajectories if t.id in chosen]
        write_block(self._folder, self._rank, kept)
        self._kept = None
        if self._rank == 0:  # those of an earlier attempt, on more ranks
            remove_parts(self._folder, self._cfg.learner.ranks)
        distributed.barrier()

    def kl(self, engine: TrainingEngine) -> float | None:
        """KL(start || current), nats per token (k3 over the start's samples), or None without any.

        On the task that the start was first evaluated on; what is forgotten elsewhere follows it
        (Shenfeld et al., "RL's Razor", 2025, arXiv 2509.04259). A collective call.

        Raises:
            RunFailure: a file of them is missing or damaged.
        """
        if self._kept is None:
            kept = self._read()
            self._kept = kept[self._rank :: self._cfg.learner.ranks]
        if not any(distributed.all_gather(len(self._kept))):
            return None  # its start was evaluated at another temperature, or by an older version
        return parity(engine, self._kept, self._cfg, VERSION)["parity_kl"]

    def _read(self) -> list[Trajectory]:
        try:
            return [t for file in parts(self._folder) for t in read_block(file)]
        except ValueError as error:
            raise RunFailure(f"{self._folder.parent}/{error}") from error


def _of_each_question(episodes: list[tuple[int, str]]) -> set[str]:
    """Ids of the first episodes of each question.

    episodes: (question, id) of all ranks'.
    """
    questions: dict[int, list[str]] = {}
    for question, name in sorted(episodes):
        questions.setdefault(question, []).append(name)
    most = max(1, EPISODES // max(1, len(questions)))
    return {name for own in questions.values() for name in own[:most]}
