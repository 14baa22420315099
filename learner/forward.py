"""Forward passes over microbatches, equally many on every rank.

Input: a forward function, possibly wrapped, and microbatches. Output: their Scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from learner.batch import MicroBatch
from learner.image_inputs import ImageInputs, pad_to_lockstep
from learner.model import Forward, ForwardOptions, Scores
from learner.sequence_parallel import SequenceParallel
from learner.ulysses import share_rows


@dataclass(frozen=True)
class Pass:
    """A forward pass that all ranks make at the same time.

    microbatch: this rank's own, on the device, whose scores it is; None where it only keeps ranks
        together, or the scores are another rank's.
    run: the scores, by a forward function.
    last: whether none follows.
    """

    microbatch: MicroBatch | None
    run: Callable[[Forward, ForwardOptions], Scores]
    last: bool


def passes(
    microbatches: list[MicroBatch],
    image_inputs: ImageInputs | None,
    device: torch.device,
    parallel: SequenceParallel | None,
) -> Iterator[Pass]:
    """The passes over all ranks' microbatches; collective, one after the other.

    Args:
        microbatches: this rank's own, possibly none.
        image_inputs: of a model that sees pictures.
        device: where this rank computes.
        parallel: its group where ranks share rows.
    """
    padded = pad_to_lockstep(microbatches, image_inputs)
    for i, microbatch in enumerate(padded):
        own, last = i < len(microbatches), i == len(padded) - 1
        moved = microbatch.to(device)
        if parallel is None:
            run = partial(run_forward, image_inputs=image_inputs, microbatch=moved)
            yield Pass(moved if own else None, run, last)
            continue
        shared = parallel.passes(microbatch, device)
        for each in shared:
            scored = moved if own and each.owned else None
            yield Pass(scored, each.run, last and each is shared[-1])


def run_forward(
    forward: Forward,
    options: ForwardOptions,
    image_inputs: ImageInputs | None,
    microbatch: MicroBatch,
) -> Scores:
    """One forward pass over a microbatch on the device, by this rank alone."""
    m = microbatch
    images = image_inputs.model_inputs(m, m.token_ids.device) if image_inputs else {}
    share_rows(None)
    return Scores(
        *forward(m.token_ids, m.position_ids, m.actions, m.value_positions, options, images)
    )


def zero_loss(scores: Scores) -> torch.Tensor:
    """0 as a function of every output: ZeRO-3 needs the same backward pass on every rank."""
    parts = [t.reshape(-1)[:0].sum() for t in scores if t is not None and t.requires_grad]
    return torch.stack(parts).sum()


@torch.no_grad()
def score_all(
    forward: Forward,
    image_inputs: ImageInputs | None,
    microbatches: list[MicroBatch],
    options: ForwardOptions | None = None,
    *,
    device: torch.device,
    parallel: SequenceParallel | None = None,
) -> list[Scores]:
    """Scores of each microbatch, without gradients; a collective call."""
    options = options or ForwardOptions()
    scored = [
        (each.microbatch, each.run(forward, options))
        for each in passes(microbatches, image_inputs, device, parallel)
    ]
    return [scores for microbatch, scores in scored if microbatch is not None]
