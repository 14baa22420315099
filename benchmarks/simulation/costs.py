"""What the parts of a run cost in a simulated cluster, seconds: engine, learner, sync, buffer.

The coefficients are measured on this machine (`benchmarks/scaling/parts.py`), or follow from
published figures of GPUs (`benchmarks/scaling/gpu.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.simulation.durations import Speeds, episode_tokens
from configs.schema import RunConfig
from learner.scoring_step import scored_by_its_step


class TurnTokens(NamedTuple):
    """A turn of an episode: tokens that it adds to the prompt, and those of its answer."""

    prompt: int
    answer: int


Workload = Callable[[int], list[TurnTokens]]  # the turns of the episode of a seed


@dataclass(frozen=True)
class EngineCosts:
    """Of one engine, all of its GPUs together.

    step_s, sequence_s: of a decode step, and of each sequence in it, beside what follows.
    weights_s, context_s, compute_s: reading all weights, reading a token of context, computing a
        sequence's next token; reading and computing go on at once, so that the longer one counts.
    request_s, prompt_token_s: of a request, and of a token of its prompt that is not cached.
    threads: that it keeps busy on a machine whose processes share its cores; 0 on a GPU.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    weights_s: float = 0.0
    context_s: float = 0.0
    compute_s: float = 0.0
    request_s: float = 0.0
    prompt_token_s: float = 0.0
    threads: float = 0.0

    def decode_s(self, sequences: int, context: float) -> float:
        """A decode step of so many sequences, which have so many tokens of context together."""
        device = max(self.weights_s + context * self.context_s, sequences * self.compute_s)
        return self.step_s + sequences * self.sequence_s + device

    def prefill_s(self, tokens: int) -> float:
        """A request with so many tokens that are not cached, until its first token."""
        return self.request_s + tokens * self.prompt_token_s


@dataclass(frozen=True)
class PassCosts:
    """Of a pass of a rank's policy over one microbatch.

    exchange_s: for which ranks exchange weights and gradients, while the microbatch is computed.
    """

    token_s: float
    microbatch_s: float = 0.0
    exchange_s: float = 0.0

    def seconds(self, tokens: float, budget: int) -> float:
        """All microbatches of so many tokens, in equal ones within the budget."""
        count = max(1, math.ceil(tokens / budget))
        computed = self.microbatch_s + tokens / count * self.token_s
        return count * max(computed, self.exchange_s)


@dataclass(frozen=True)
class LearnerCosts:
    """Of the learner's ranks, which go in lockstep.

    step, score: of a microbatch with gradients, and without.
    optimizer_s: of an optimizer step, beside its microbatches.
    trajectory_s: of each trajectory of the whole batch, on every rank.
    own_trajectory_s: of each of a rank's own.
    fetch_s: of each of a rank's own, before the update: fetching and packing.
    threads: as of EngineCosts, of all ranks together.
    """

    step: PassCosts
    score: PassCosts
    optimizer_s: float = 0.0
    trajectory_s: float = 0.0
    own_trajectory_s: float = 0.0
    fetch_s: float = 0.0
    threads: float = 0.0

    def update_s(self, cfg: RunConfig, tokens: int) -> float:
        """An update on so many tokens, of all ranks together."""
        ppo, ranks, budget = cfg.ppo, cfg.learner.ranks, cfg.learner.microbatch_tokens
        steps = math.ceil(ppo.episodes / ppo.minibatch)
        step = self.step.seconds(tokens / ranks / steps, budget) + self.optimizer_s
        score = 0.0 if scored_by_its_step(ppo) else self.score.seconds(tokens / ranks, budget)
        own = ppo.episodes / ranks * self.own_trajectory_s
        return score + ppo.epochs * steps * step + ppo.episodes * self.trajectory_s + own

    def before_s(self, cfg: RunConfig) -> float:
        """From the batch until an update on it can begin."""
        return cfg.ppo.episodes / cfg.learner.ranks * self.fetch_s


@dataclass(frozen=True)
class SyncCosts:
    """Of a publish.

    sent_s: for which the learner's weights stay as they are.
    travel_s: then, until a node has them.
    load_s: for which an engine is paused; engines of a node load one after another.
    collective: all engines pause for `sent_s`, and have the weights at its end (nccl, ipc).
    """

    sent_s: float = 0.0
    travel_s: float = 0.0
    load_s: float = 0.0
    collective: bool = False


@dataclass(frozen=True)
class BufferCosts:
    """Of the trajectory buffer, one process that serves one block after another.

    block_s, trajectory_s: of a block, and of each trajectory in it.
    block_age_s: for which a finished trajectory waits for its block to be full.
    call_s: until a call has reached its actor, or its answer the caller.
    """

    block_s: float = 0.0
    trajectory_s: float = 0.0
    block_age_s: float = 0.0
    call_s: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Of all parts of a run.

    workload: turns of an episode, by its seed.
    environment_s: of an environment's step.
    engines_of_a_node: how many engines load weights one after another.
    cores: that engines and learner share; infinite where each has its own device.
    """

    workload: Workload
    engine: EngineCosts
    learner: LearnerCosts
    sync: SyncCosts = field(default_factory=SyncCosts)
    buffer: BufferCosts = field(default_factory=BufferCosts)
    environment_s: float = 0.0
    engines_of_a_node: int = 8
    cores: float = math.inf


def constant_speeds(cfg: RunConfig, speeds: Speeds) -> Costs:
    """Sequences that do not slow each other, and a learner of so many action tokens a second."""
    ppo = cfg.ppo
    token_s = speeds.learner_token_s * cfg.learner.ranks / ppo.epochs
    return Costs(
        workload=lambda seed: [TurnTokens(0, episode_tokens(seed))],
        engine=EngineCosts(step_s=speeds.token_s),
        learner=LearnerCosts(PassCosts(token_s), PassCosts(0.0)),
        sync=SyncCosts(load_s=speeds.load_s),
        engines_of_a_node=1,
    )
