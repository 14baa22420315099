"""A model's output layer on hidden states: from final hidden states to what is known of tokens.

Rows of logits are as wide as the vocabulary. They are made a chunk at a time and made again in
the backward pass, so that never more than a chunk of them is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from learner import distributed

CHUNK_ELEMENTS = 2**25  # of logits: 256 MiB in float32
TOLERANCE = 1e-4  # between logits of one row, computed alone and among others


class TokenScores(NamedTuple):
    """Of N tokens: logprobs, entropy, score_norms, float32 [N]; see `learner.model.Scores`."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    score_norms: torch.Tensor


class _TargetLogprobs(torch.autograd.Function):
    """log softmax(logits)[target], with one tensor as large as the logits in the backward pass.

    By autograd alone there are three, and most of a step at a large vocabulary is their traffic.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets, total = targets.unsqueeze(-1), logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, targets, total)
        return (logits.gather(-1, targets) - total).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        grad = grads[0].unsqueeze(-1)
        probabilities = torch.sub(logits, total).exp_()
        return probabilities.mul_(-grad).scatter_add_(-1, targets, grad), None


def token_scores(
    logits: torch.Tensor, targets: torch.Tensor, entropy: bool, score_norms: bool
) -> TokenScores:
    """Scores of the targets int64 [N] by the logits float32 [N, V].

    The score norm of token a is || onehot(a) - p ||² = (1 - p_a)² + Σ_{v ≠ a} p_v². 1 - p_a is
    added up from the others' p_v: of a sure token it would otherwise be rounding, below 0 too.
    """
    logprobs: torch.Tensor = _TargetLogprobs.apply(logits, targets)
    entropies = norms = torch.zeros_like(logprobs, requires_grad=False)
    if not entropy and not score_norms:
        return TokenScores(logprobs, entropies, norms)
    distribution = logits.log_softmax(-1)
    if entropy:
        # 0 times -inf is NaN; a probability is 0 far above exp(-1e4) already.
        entropies = -(distribution.exp() * distribution.clamp(min=-1e4)).sum(-1)
    if score_norms:
        others = distribution.detach().exp().scatter_(-1, targets.unsqueeze(-1), 0.0)
        norms = others.sum(-1).square() + others.square_().sum(-1)
    return TokenScores(logprobs, entropies, norms)


class OutputLayer:
    """What a model does behind its trunk, whatever that is: bias, scale, soft cap.

    The model itself is run, with hidden states in place of what its trunk would compute.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.rows = max(1, CHUNK_ELEMENTS // model.config.get_text_config().vocab_size)
        # A model whose trunk is no module of its own cannot be run without it.
        self._usable = model.base_model is not model
        self._checked = False

    def chunks(self, rows: int) -> int:
        """In how many chunks so many rows are scored; 1 where they are not divided.

        Collective at ZeRO-3: a chunk gathers the layer's weight, so all ranks have as many.
        """
        own = -(-rows // self.rows) if self._usable else 1
        if hasattr(self._model.get_output_embeddings().weight, "ds_id"):
            return int(distributed.all_max([own])[0])
        return own

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of final hidden states [N, H]."""
        tokens = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with _forward(self._model.base_model, _TrunkOutput(hidden.unsqueeze(0))):
            return self._model(input_ids=tokens, use_cache=False).logits.squeeze(0)

    def matches(self, hidden: torch.Tensor, logits: torch.Tensor) -> bool:
        """Whether states [N, H] give the logits [N, V] that the whole model made of them.

        It is asked once; where they do not, there are no chunks from then on.
        """
        if not self._checked:
            with torch.no_grad():
                own = self.logits(hidden).float()
            self._usable = torch.allclose(own, logits.float(), rtol=TOLERANCE, atol=TOLERANCE)
            self._checked = True
        return self._usable

    def scores(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        chunks: int,
        score: Callable[[torch.Tensor, torch.Tensor], TokenScores],
    ) -> TokenScores:
        """`score` of the logits and targets of each chunk, put together.

        A rank of fewer rows scores its first row again, to no effect.

        Args:
            hidden: [N, H].
            targets: int64 [N].
            chunks: how many.
            score: of logits [n, V] and targets [n].
        """

        def run(states: torch.Tensor, tokens: torch.Tensor) -> TokenScores:
            return score(self.logits(states), tokens)

        pairs = [*zip(hidden.split(self.rows), targets.split(self.rows), strict=True)]
        pairs += [(hidden[:1], targets[:1])] * (chunks - len(pairs))
        parts = [
            checkpoint(run, *pair, use_reentrant=False, preserve_rng_state=False) for pair in pairs
        ]
        columns = [torch.cat(column)[: len(targets)] for column in zip(*parts, strict=True)]
        return TokenScores(*columns)


class _TrunkOutput:
    """In place of a trunk's output: hidden states, and nothing else that it might have."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index != 0:
            raise IndexError(index)
        return self.last_hidden_state


@contextmanager
def _forward(module: torch.nn.Module, output: Any) -> Iterator[None]:
    """The module gives this output, whatever its input is."""
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward
