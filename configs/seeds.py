"""Which episode seeds a run trains on and evaluates on; `contradictions` refuses common ones."""

from __future__ import annotations

from collections.abc import Iterator

from configs.schema import RunConfig

SEEDS = 2**32  # numpy's global generator, which engines and environments seed, takes no larger one

PPO_OFFSET = 10_000_000  # above what demonstrations and evaluations usually take
RUN_STRIDE = 1_000_000_000  # between the PPO seeds of two runs whose `seed` differs by one, …
# … modulo this: as the ratio is 2 + the square root of 5, the starts of the first n runs are spread
# as evenly as can be for every n. Those of 72 runs are 55 million apart, of 305 runs 13 million.
RUN_CYCLE = 4_236_067_977


def demonstration_seeds(cfg: RunConfig) -> range:
    """Seeds kept for the expert's episodes: at most one each; empty without SFT or with own data.

    An environment may draw others of its own from `cfg.seed`, as GeneralPoints does from 2^31, so
    that a demonstration can have an evaluation's seed. What tells whether an evaluation asks what
    was trained on is therefore `TextEnv.overlap`, which compares questions.
    """
    own = cfg.sft.steps > 0 and cfg.sft.data is None
    return range(cfg.seed, cfg.seed + cfg.sft.demonstrations) if own else range(0)


def update_seeds(cfg: RunConfig, update: int) -> range:
    """Seeds of one PPO update, counted from 1: new ones for each."""
    number = cfg.ppo.episodes // cfg.ppo.group_size
    first = cfg.seed * RUN_STRIDE % RUN_CYCLE + PPO_OFFSET + (update - 1) * number
    return range(first, first + number)


def ppo_seeds(cfg: RunConfig) -> range:
    """Seeds of all PPO updates, with those of the groups that dynamic sampling may play."""
    if not cfg.ppo.updates:
        return range(0)
    last = cfg.ppo.updates * max(1, cfg.ppo.dynamic_sampling)
    return range(update_seeds(cfg, 1).start, update_seeds(cfg, last).stop)


def evaluation_seeds(cfg: RunConfig) -> range:
    """Seeds of every evaluation; the first are sampled as well."""
    return range(cfg.eval.seed, cfg.eval.seed + cfg.eval.episodes)


def intersect(one: range, other: range) -> bool:
    """Whether two ranges of step 1 have a seed in common."""
    return max(one.start, other.start) < min(one.stop, other.stop)


def seed_contradictions(cfg: RunConfig) -> Iterator[str]:
    """A sentence for each seed that is too large, or that is trained on and evaluated."""
    yield from _too_large(cfg)
    evaluated = evaluation_seeds(cfg)
    trained = {"sft": demonstration_seeds(cfg), "ppo": ppo_seeds(cfg)}
    for phase, seeds in trained.items():
        if intersect(evaluated, seeds):
            yield (
                f"eval.seed={cfg.eval.seed}: evaluation plays seeds {evaluated.start} to "
                f"{evaluated.stop - 1}, and {phase} trains on {seeds.start} to {seeds.stop - 1}; "
                "they must not meet"
            )


def _too_large(cfg: RunConfig) -> Iterator[str]:
    """A sentence for each seed, given or derived, that its reader does not take."""
    if cfg.seed >= SEEDS:
        yield f"seed={cfg.seed}: must be below {SEEDS} (2^32), as the engine's generators need"
        return
    last = {
        "sft.demonstrations": (cfg.sft.demonstrations, demonstration_seeds(cfg).stop),
        "eval.seed": (cfg.eval.seed, evaluation_seeds(cfg).stop),
        "ppo.updates": (cfg.ppo.updates, ppo_seeds(cfg).stop),
    }
    for key, (value, stop) in last.items():
        if stop > SEEDS:
            yield (
                f"{key}={value}: the last episode's seed would be {stop - 1}; it must be below "
                f"{SEEDS} (2^32), as the generators of environments need"
            )
