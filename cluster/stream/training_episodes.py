"""The training episodes of a run, in the order in which they are played.

Group g is one seed, played `ppo.group_size` times. With G groups of an update, update u trains on
the groups (u - 1)·G … u·G - 1, unless one fails or is passed over (`ppo.dynamic_sampling`).
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.stream.ledger import Stream
from configs.schema import RunConfig
from configs.seeds import update_seeds
from rollout.episode import EpisodeRequest


def training_stream(cfg: RunConfig, update: int, next_group: int) -> Stream:
    """The episodes of an update and of those after it, from a group on, for the ledger."""
    ppo = cfg.ppo
    size = ppo.episodes // ppo.group_size
    return Stream(
        groups=training_groups(cfg, next_group),
        groups_per_update=size,
        max_staleness=ppo.max_staleness,
        first_update=update,
        last_update=ppo.updates,
        most_passed=size * max(0, ppo.dynamic_sampling - 1),
    )


def training_groups(cfg: RunConfig, first: int) -> Iterator[tuple[int, list[EpisodeRequest]]]:
    """Number and episodes of each group, from `first` on, without an end."""
    group = first
    while True:
        yield group, training_group(cfg, group)
        group += 1


def training_group(cfg: RunConfig, group: int) -> list[EpisodeRequest]:
    """The episodes of one group: new seeds for each."""
    size = cfg.ppo.group_size
    before, index = divmod(group, cfg.ppo.episodes // size)
    seed = update_seeds(cfg, before + 1)[index]
    return [
        EpisodeRequest(
            id=f"ppo/{before + 1:06d}/{index * size + i:06d}",
            variant="rollout",
            seed=seed,
            group_id=seed,
            sample_index=i,
            temperature=cfg.rollout.temperature,
            sampling_seed=cfg.seed,
            bootstrap=cfg.ppo.trunc_bootstrap,
        )
        for i in range(size)
    ]
