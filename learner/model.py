"""The policy and its critic: any Hugging Face (vision-)language model, a value head on its trunk.

Input: the tensors of a microbatch. Output: log-probabilities and entropies at its action tokens,
values at its value positions; logits are computed at action tokens only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import logging

from configs.schema import RunConfig
from learner.attention import attention_of
from learner.cpu import use_onednn
from learner.output_layer import OutputLayer, TokenScores, token_scores
from learner.partitioned import Partition, load_partitioned_trunk
from learner.trunk import cast_parameters, check_dtype, empty_trunk, load_trunk
from rollout.freed_memory import keep_freed_memory
from rollout.renderer import FORBIDDEN_BIAS

logging.disable_progress_bar()  # a terminal full of bars hides the run's own progress

Forward = Callable[..., tuple[torch.Tensor, ...]]  # ActorCritic.forward, possibly wrapped
VALUE_HEAD_FILE = "value_head.safetensors"
WEIGHT_KINDS = ("embedding", "attention", "mlp", "norm", "head", "vision", "projector")
FROZEN_KINDS = {"none": (), "vision": ("vision",), "vision+projector": ("vision", "projector")}


class Scores(NamedTuple):
    """Output of a forward pass over one microbatch with N action tokens and M values.

    logprobs: float32 [N], of the action tokens under softmax((logits + bias) / temperature).
    entropy: float32 [N], of the distributions that they were drawn from, nats; zeros without
        ForwardOptions.entropy.
    values: float32 [M]; zeros without a value head.
    score_norms: float32 [N], squared norm of each log-probability's gradient by the logits,
        without gradient; zeros without ForwardOptions.score_norms.
    distribution: float32 [N, V] log-probabilities of all tokens, with
        ForwardOptions.distribution.
    reference_distribution: float32 [N, V], the same of the reference policy, if there is one.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor
    score_norms: torch.Tensor
    distribution: torch.Tensor | None = None
    reference_distribution: torch.Tensor | None = None


@dataclass(frozen=True)
class ForwardOptions:
    """Options of a forward pass.

    temperature: divides the logits, as in sampling; above 0.
    value_trunk_grad: factor on the gradient of the values into the trunk, 0 to 1.
    freeze_trunk: train the value head alone; only the values carry gradient.
    entropy: whether to compute Scores.entropy.
    score_norms: whether to compute Scores.score_norms.
    distribution: whether to return all tokens' log-probabilities.
    """

    temperature: float = 1.0
    value_trunk_grad: float = 1.0
    freeze_trunk: bool = False
    entropy: bool = False
    score_norms: bool = False
    distribution: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"rollout.temperature is {self.temperature}; log-probabilities need it above 0"
            )


class _Float32Linear(nn.Linear):
    """A linear layer that computes in float32: values of ±5 need more than bfloat16's digits."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs.float(), self.weight.float(), self.bias.float())


class ValueHead(nn.Module):
    """MLP from a hidden state [M, H] to a value float32 [M]; the last layer starts at zero."""

    def __init__(self, hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.inner = _Float32Linear(hidden, hidden)
        self.outer = _Float32Linear(hidden, 1)
        generator = torch.Generator().manual_seed(seed)  # the same on every rank
        with torch.no_grad():
            self.inner.weight.normal_(std=hidden**-0.5, generator=generator)
            self.inner.bias.zero_()
            self.outer.weight.zero_()
            self.outer.bias.zero_()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values float32 [M] of hidden states [M, H]."""
        return self.outer(F.gelu(self.inner(hidden))).squeeze(-1)


class ActorCritic(nn.Module):
    """Trunk, output layer and optional value head as one module.

    A hook in front of the output layer keeps the final hidden states [R * L, H] and passes on
    only the rows that predict action tokens, so whatever a model does to its logits is still
    done.
    """

    def __init__(
        self, trunk: PreTrainedModel, value_head: ValueHead | None, forbidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.value_head = value_head
        self.forbidden = tuple(forbidden)
        self._takes_positions = "position_ids" in inspect.signature(type(trunk).forward).parameters
        self._three_dimensional = rope_index(trunk) is not None
        self._output_layer = OutputLayer(trunk)
        self._rows: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        trunk.get_output_embeddings().register_forward_pre_hook(self._select_rows)

    def _select_rows(
        self, module: nn.Module, inputs: tuple[torch.Tensor]
    ) -> tuple[torch.Tensor] | None:
        if self._rows is None:  # the trunk is used on its own
            return None
        hidden = inputs[0]
        self._hidden = hidden.reshape(-1, hidden.shape[-1])
        return (self._hidden.index_select(0, self._rows).unsqueeze(0),)

    def forward(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        actions: torch.Tensor,
        value_positions: torch.Tensor,
        options: ForwardOptions,
        image_inputs: Mapping[str, torch.Tensor] | None = None,
        targets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The fields of Scores, for the tensors of a MicroBatch, whose docstring has their shapes.

        image_inputs: the model's keywords for its pictures (`ImageInputs.model_inputs`).
        targets: int64 [N], the action tokens, where they may lie beyond token_ids.
        """
        if targets is None:
            targets = token_ids.view(-1).index_select(0, actions)
        inputs = {"input_ids": token_ids, **self._positions(position_ids), **(image_inputs or {})}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not options.freeze_trunk):
            hidden, scores, distribution = self._score(inputs, actions - 1, targets, options)
        values = self._values(hidden, value_positions, options.value_trunk_grad)
        outputs = (scores.logprobs, scores.entropy, values, scores.score_norms)
        return outputs if distribution is None else (*outputs, distribution)

    def _score(
        self,
        inputs: Mapping[str, torch.Tensor],
        rows: torch.Tensor,
        targets: torch.Tensor,
        options: ForwardOptions,
    ) -> tuple[torch.Tensor, TokenScores, torch.Tensor | None]:
        """All final hidden states; scores at rows; with options.distribution all tokens' there."""
        score = functools.partial(
            token_scores, entropy=options.entropy, score_norms=options.score_norms
        )

        def score_logits(logits: torch.Tensor, tokens: torch.Tensor) -> TokenScores:
            return score(self._sampled_from(logits, options.temperature), tokens)

        layer = self._output_layer
        chunks = 1 if options.distribution else layer.chunks(len(rows))
        if chunks > 1:
            logits, hidden = self._run_trunk(inputs, rows[:1])
            states = hidden.index_select(0, rows)
            if layer.matches(states[:1], logits):
                return hidden, layer.scores(states, targets, chunks, score_logits), None
        logits, hidden = self._run_trunk(inputs, rows)
        logits = self._sampled_from(logits, options.temperature)
        if options.distribution:
            logits = logits.log_softmax(-1)
        return hidden, score(logits, targets), logits if options.distribution else None

    def _positions(self, position_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The trunk's keyword for positions of text; none where it computes its own from none."""
        if not self._takes_positions:
            return {}
        if self._three_dimensional:  # the text's, by which it separates sequences, then the three
            position_ids = position_ids.expand(4, -1, -1)
        return {"position_ids": position_ids}

    def _run_trunk(
        self, inputs: Mapping[str, torch.Tensor], rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [N, V] at flat rows [N], and all final hidden states [R * L, H]."""
        self._rows = rows  # index t's log-probability comes from the state at t - 1
        try:
            logits = self.trunk(**inputs, use_cache=False).logits.squeeze(0)
            hidden = self._hidden
        finally:
            self._rows = self._hidden = None
        assert hidden is not None, "the model's output layer did not run"
        return logits, hidden

    def _sampled_from(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """The logits whose softmax tokens are drawn from."""
        logits = logits.float()
        if self.forbidden:
            bias = torch.zeros(logits.shape[-1], device=logits.device)
            bias[list(self.forbidden)] = FORBIDDEN_BIAS
            logits = logits + bias
        if temperature != 1.0:
            logits = logits / temperature
        return logits

    def _values(
        self, hidden: torch.Tensor, positions: torch.Tensor, trunk_grad: float
    ) -> torch.Tensor:
        if self.value_head is None:
            return hidden.new_zeros(len(positions), dtype=torch.float32)
        states = hidden.index_select(0, positions)
        if trunk_grad == 0.0:
            states = states.detach()
        elif trunk_grad < 1.0:
            states = trunk_grad * states + (1.0 - trunk_grad) * states.detach()
        return self.value_head(states)


def load_actor_critic(
    folder: Path,
    cfg: RunConfig,
    forbidden: Sequence[int],
    value_seed: int | None,
    partition: Partition | None = None,
) -> ActorCritic:
    """The policy in a Hugging Face folder, by `model.*`: dtype, frozen parts, checkpointing.

    Args:
        folder: Hugging Face model folder.
        cfg: the run's configuration.
        forbidden: token ids that are never sampled.
        value_seed: of a new value head; None for a policy without one.
        partition: see `load_partitioned_trunk`; None for whole weights on every rank.

    Raises:
        ValueError: the folder holds no model.
    """
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[cfg.model.dtype]
    empty = empty_trunk(folder, dtype)
    check_dtype(empty, dtype)
    attention = attention_of(empty, cfg, gpu=torch.cuda.is_available())
    if partition is None:
        trunk = load_trunk(folder, dtype, attention)
    else:
        trunk = load_partitioned_trunk(folder, dtype, attention, partition)
    freeze(trunk, cfg.model.freeze)
    if cfg.model.gradient_checkpointing:
        trunk.train()  # in eval mode transformers keeps all activations; there is no dropout
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
    if not torch.cuda.is_available():
        keep_freed_memory(up_to_medium=True)  # logits and gradients are larger, and differ
        use_onednn(trunk)
    head = None
    if value_seed is not None:
        head = load_value_head(folder, trunk.config.get_text_config().hidden_size, value_seed)
    actor_critic = ActorCritic(trunk, head, forbidden)
    cast_parameters(actor_critic, dtype)
    return actor_critic


def freeze(trunk: PreTrainedModel, parts: str) -> None:
    """Leave the weights of some parts out of training, by `model.freeze`."""
    for name, parameter in trunk.named_parameters():
        if weight_kind(name, trunk) in FROZEN_KINDS[parts]:
            parameter.requires_grad_(False)


def load_value_head(folder: Path, hidden: int, seed: int) -> ValueHead:
    """The value head saved in a model's folder, or a new one, whose values are all 0."""
    head = ValueHead(hidden, seed)
    if (folder / VALUE_HEAD_FILE).is_file():
        head.load_state_dict(load_file(folder / VALUE_HEAD_FILE))
    return head


def rope_index(trunk: PreTrainedModel) -> Callable[..., tuple[torch.Tensor, ...]] | None:
    """The method that computes positions in three dimensions, of models that have them (Qwen's)."""
    return getattr(getattr(trunk, "model", trunk), "get_rope_index", None)


def weight_kind(name: str, trunk: PreTrainedModel) -> str:
    """The kind of a trunk parameter, one of WEIGHT_KINDS, or "other".

    An output layer that shares its weight with the embedding counts as embedding.
    """
    parameter = trunk.get_parameter(name)
    if parameter is trunk.get_input_embeddings().weight:
        return "embedding"
    if parameter is trunk.get_output_embeddings().weight:
        return "head"
    lower = name.lower()
    for kind, marks in (
        ("projector", ("connector", "projector", "multi_modal", "merger", "aligner")),
        ("vision", ("vision", "visual")),
        ("norm", ("norm", "ln_", ".ln")),
        ("attention", ("attn", "attention", "mixer", "mamba", ".conv", "ssm")),
        ("mlp", ("mlp", "feed_forward", "ffn", ".fc", "experts", "moe")),
    ):
        if any(mark in lower for mark in marks):
            return kind
    return "other"
