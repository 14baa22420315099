"""One optimizer step of supervised fine-tuning.

Input: this rank's share of a batch of demonstrations, as sequences. Output: metrics.
"""

from __future__ import annotations

import time

import torch

from configs.schema import SFTConfig
from learner import distributed
from learner.batch import MicroBatch, Sequence
from learner.engine import LossFn, Means, ReferencePolicy, TrainingEngine
from learner.loss import cross_entropy_terms, dft_terms, kl_terms
from learner.model import ForwardOptions, Scores


def sft_step(
    engine: TrainingEngine,
    sequences: list[Sequence],
    cfg: SFTConfig,
    reference: ReferencePolicy | None = None,
) -> dict[str, float]:
    """One optimizer step on the mean loss over all ranks' action tokens; a collective call.

    Args:
        engine: of the SFT phase.
        sequences: this rank's demonstrations, the answers' tokens as action tokens.
        cfg: the phase's configuration.
        reference: the initial model; needed for loss=ce_kl, otherwise not used.

    Returns:
        loss, lr, grad_norm, tokens (of all ranks, prompts too), action_tokens,
        seconds, tokens_per_second; equal on every rank but for the last two.

    Raises:
        ValueError: no action token at all, or loss=ce_kl without a reference.
    """
    if cfg.loss == "ce_kl" and reference is None:
        raise ValueError("sft.loss is 'ce_kl'; it needs the initial model as reference")
    begin = time.perf_counter()
    actions = sum(int(s.action_mask.sum()) for s in sequences)
    tokens, actions = distributed.all_sum([sum(len(s.token_ids) for s in sequences), actions])
    if actions == 0:
        raise ValueError("sft batch has no token with loss; demonstrations must train an answer")
    options = ForwardOptions(distribution=cfg.loss == "ce_kl")
    metrics = engine.step(
        engine.microbatches(sequences),
        sft_loss(cfg, actions),
        options,
        reference if cfg.loss == "ce_kl" else None,
    )
    seconds = time.perf_counter() - begin
    return {
        **metrics,
        "tokens": float(tokens),
        "action_tokens": float(actions),
        "seconds": seconds,
        "tokens_per_second": float(tokens) / seconds,
    }


def sft_loss(cfg: SFTConfig, actions: int) -> LossFn:
    """The loss function, for TrainingEngine.step, of a global batch with so many action tokens."""

    def loss_fn(scores: Scores, microbatch: MicroBatch) -> tuple[torch.Tensor, Means]:
        terms = (dft_terms if cfg.loss == "dft" else cross_entropy_terms)(scores.logprobs)
        if cfg.loss == "ce_kl":
            current, initial = scores.distribution, scores.reference_distribution
            assert current is not None
            assert initial is not None
            terms = terms + cfg.kl_coef * kl_terms(current, initial)
        return terms.sum() / actions, {}

    return loss_fn
