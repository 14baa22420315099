"""Forward passes over microbatches, equally many on every rank.

Input: a forward function, possibly wrapped, and microbatches. Output: their Scores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from learner.batch import MicroBatch
from learner.image_inputs import ImageInputs, pad_to_lockstep
from learner.model import ForwardOptions, Scores

Forward = Callable[..., tuple[torch.Tensor, ...]]  # ActorCritic.forward, possibly wrapped


def run_forward(
    forward: Forward,
    image_inputs: ImageInputs | None,
    microbatch: MicroBatch,
    options: ForwardOptions,
) -> Scores:
    """One forward pass over a microbatch on the device."""
    m = microbatch
    images = image_inputs.model_inputs(m, m.token_ids.device) if image_inputs else {}
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
    options: ForwardOptions | None,
    device: torch.device,
) -> list[Scores]:
    """Scores of each microbatch, without gradients; a collective call."""
    passes = pad_to_lockstep(microbatches, image_inputs)
    options = options or ForwardOptions()
    scores = [run_forward(forward, image_inputs, m.to(device), options) for m in passes]
    return scores[: len(microbatches)]
