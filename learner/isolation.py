"""Whether sequences of a row, or of a microbatch, leave each other alone in the model at hand.

Tried at the start, because no table of models says it: recurrent layers carry their state from one
sequence of a row into the next, and so does a model that counts its own positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from configs.schema import FLASH_ATTENTION, RunConfig
from configs.text import one_line
from learner import batch, distributed
from learner.batch import MicroBatch
from learner.model import Scores

# Nats; what rounding may make of another shape of the batch, and of other tokens beside.
ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2}
INFLUENCE = {"float32": 1e-4, "bfloat16": 1e-2}
# In bfloat16 another shape is another kernel, and no figure tells how far a model's rounding goes:
# there limits are at least so many times what it does where nothing can leak.
TIMES = 3
SCORED = 8  # tokens at each end of a sequence

ScoreFn = Callable[[list[MicroBatch]], list[Scores]]


@dataclass(frozen=True)
class PackingCheck:
    """How sequences share rows in a run, and what was measured.

    packing: one of PACKINGS.
    row_gap: nats, the largest mean difference between a sequence's log-probabilities in a row with
        others, or in one of two such rows, and alone; 0 where learner.packing=padded, which has
        no such rows.
    influence: nats, how much the last sequence of such a row changes with the tokens of the others;
        of the same shape, so it is 0 but for rounding where they are isolated.
    padded_gap: as row_gap, for one sequence a row, padded to the longest.
    cause: why rows of several sequences were given up; "" where they were not.
    padded_influence: as influence, for one sequence a row, with other pads too.
    rounding: nats, how much a sequence's begin changes with its own later tokens, of the same
        shape: 0 but in layers whose kernels depend on where tokens go (experts).
    """

    packing: str
    row_gap: float
    influence: float
    padded_gap: float
    cause: str = ""
    padded_influence: float = 0.0
    rounding: float = 0.0


class _Gaps(NamedTuple):
    """Those of a PackingCheck."""

    row: float
    influence: float
    padded: float
    padded_influence: float
    rounding: float

    def limits(self, dtype: str) -> tuple[float, float]:
        """Of what another shape changes, and of what other tokens beside do."""
        if dtype == "float32":
            return ROUNDING[dtype], INFLUENCE[dtype]
        shape = max(ROUNDING[dtype], TIMES * self.padded)
        return shape, max(INFLUENCE[dtype], TIMES * self.rounding)


def check_packing(
    score: ScoreFn, config: PretrainedConfig, cfg: RunConfig, forbidden: Sequence[int] = ()
) -> PackingCheck:
    """Choose the packing of a run by `learner.packing` and by what the model does; collective.

    Args:
        score: of a TrainingEngine.
        config: of its trunk.
        cfg: the run's configuration.
        forbidden: token ids to leave out.

    Raises:
        ValueError: learner.packing names one that leaks in this model, or all of them do.
    """
    requested, dtype = cfg.learner.packing, cfg.model.dtype
    flat = requested == "flat" or (requested == "auto" and _flash(config))
    name = _name(config)
    sequences = probe(config, cfg, flat, forbidden)
    try:
        rows = 0 if requested == "padded" else 1 if flat else 2
        measured = _measure(score, sequences, rows)
    except Exception as error:  # the boundary to transformers: a model's first forward pass
        raise ValueError(
            f"{name} cannot be trained: its forward pass fails: {one_line(error)}"
        ) from error
    gaps = _Gaps(*distributed.all_max(measured).tolist())
    shape_limit, influence_limit = gaps.limits(dtype)
    exact = dtype == "float32" or math.isinf(gaps.padded)  # not a number is refused everywhere
    off, limit = (
        (gaps.padded, ROUNDING[dtype]) if exact else (gaps.padded_influence, influence_limit)
    )
    if off > limit:
        raise ValueError(
            f"{name} cannot be trained: its log-probabilities of a sequence change by {off:.2g} "
            f"nats when it is padded or stands beside others; they must agree to {limit:.2g}"
        )
    figures = gaps.row, gaps.influence, gaps.padded
    beside = gaps.padded_influence, gaps.rounding
    if gaps.row <= shape_limit and gaps.influence <= influence_limit:
        return PackingCheck("flat" if flat else requested, *figures, "", *beside)
    leak = (
        f"sequences that share a row change each other's log-probabilities in {name} by "
        f"{max(gaps.row, gaps.influence):.2g} nats"
    )
    if requested != "auto":
        raise ValueError(f"learner.packing={requested}: {leak}; padded and auto give each its own")
    cause = f"{leak}, so each gets its own (padded)"
    return PackingCheck("padded", *figures, cause, *beside)


def check_shared_rows(
    score: ScoreFn,
    score_alone: ScoreFn,
    config: PretrainedConfig,
    cfg: RunConfig,
    forbidden: Sequence[int] = (),
) -> None:
    """Refuse a model whose rows cannot be shared out among ranks; collective.

    That is one with a layer that reads other tokens than by attention.

    Args:
        score: of a TrainingEngine with learner.sequence_parallel.
        score_alone: the same, each rank by itself.
        config: of its trunk.
        cfg: the run's configuration.
        forbidden: token ids to leave out.

    Raises:
        ValueError: the log-probabilities differ, or the forward pass fails.
    """
    rounding = ROUNDING[cfg.model.dtype]
    key = f"learner.sequence_parallel={cfg.learner.sequence_parallel}"
    sequences = probe(config, cfg, False, forbidden)
    begin = sequences[0].token_ids[: SCORED * cfg.learner.sequence_parallel]
    short = batch.Sequence(begin, np.arange(len(begin)) > 0)  # scored at the begin of each part
    every = list(range(len(sequences)))
    trials = [([short], [[0]]), (sequences, [[i] for i in every])]
    if cfg.learner.packing != "padded":
        trials.append((sequences, [every]))
    try:
        alone, shared = (
            [_logprobs(scorer, parts, [rows]) for parts, rows in trials]
            for scorer in (score_alone, score)
        )
        own = _logprobs(score_alone, sequences, [[[i]] for i in every])  # another shape of batch
    except Exception as error:  # the boundary to transformers: a model's first forward passes
        raise ValueError(f"{key}: {_name(config)} cannot: {one_line(error)}") from error
    gaps = [_gap(a, b) for a, b in zip(alone, shared, strict=True)]
    gap, shape = distributed.all_max([max(gaps), _gap(own, alone[1])]).tolist()
    if cfg.model.dtype == "bfloat16" and math.isfinite(shape):
        rounding = max(rounding, TIMES * shape)
    if gap > rounding:
        raise ValueError(
            f"{key}: {_name(config)} has layers by which a token depends on others than by "
            f"attention: its log-probabilities change by {gap:.2g} nats when rows are shared out; "
            f"they must agree to {rounding:.2g}"
        )


def _name(config: PretrainedConfig) -> str:
    return config.architectures[0] if config.architectures else str(config.model_type)


def _measure(score: ScoreFn, sequences: list[batch.Sequence], rows: int) -> _Gaps:
    """The gaps of a PackingCheck.

    Args:
        score: as of `check_packing`.
        sequences: those of a row.
        rows: most rows of several sequences in a microbatch of the run, 2 for any number; 0 if
            there are no such rows, and then the first two gaps are 0.
    """
    every = list(range(len(sequences)))
    alone = _logprobs(score, sequences, [[[i]] for i in every])
    each = [[[i] for i in every]]
    padded, changed = _logprobs(score, sequences, each), _others_reversed(sequences)
    beside = _logprobs(score, changed, each, pad=int(sequences[0].token_ids[0]))
    first, half = _later_reversed(sequences[0])
    later = _logprobs(score, [first, *sequences[1:]], each)
    own = _gap([padded[0][:half]], [later[0][:half]])
    in_rows = _gap(alone, padded), _gap(padded[-1:], beside[-1:]), own
    if not rows:
        return _Gaps(0.0, 0.0, *in_rows)
    together = _logprobs(score, sequences, [[every]])
    beside_others = _logprobs(score, changed, [[every]])
    gap = _gap(alone, together)
    if rows > 1:
        gap = max(gap, _gap_in_two_rows(score, sequences))
    return _Gaps(gap, _gap(together[-1:], beside_others[-1:]), *in_rows)


def _gap_in_two_rows(score: ScoreFn, sequences: list[batch.Sequence]) -> float:
    """As row_gap, in two rows, which together have the tokens of the one.

    Flash attention, and whatever else looks for several sequences in a batch of one row only,
    leaks here and not there.
    """
    halves = [_first_half(s) for s in sequences]
    every = list(range(len(halves)))
    alone = _logprobs(score, halves, [[[i]] for i in every])
    rows = [every, [len(halves) + i for i in every]]
    return _gap(alone * 2, _logprobs(score, halves * 2, [rows]))


def _first_half(sequence: batch.Sequence) -> batch.Sequence:
    length = math.ceil(len(sequence.token_ids) / 2)
    return batch.Sequence(sequence.token_ids[:length], _ends(length))


def probe(
    config: PretrainedConfig, cfg: RunConfig, flat: bool, forbidden: Sequence[int]
) -> list[batch.Sequence]:
    """Two or more random sequences that fill a row as long as the run's, scored at both ends.

    A window or a chunk of attention shows only in rows that are longer.
    """
    text = config.get_text_config()
    longest = min(
        cfg.rollout.context_tokens, getattr(text, "max_position_embeddings", None) or math.inf
    )
    width = max(cfg.learner.microbatch_tokens, longest) if flat else longest
    count = max(2, math.ceil(width / longest))
    length = max(4, int(width) // count)
    lengths = [length] * (count - 1) + [max(3, 3 * length // 4)]  # so that one is padded
    kept_out = {*forbidden, *_special_tokens(config), *_special_tokens(text)}
    tokens = np.array([i for i in range(text.vocab_size) if i not in kept_out])
    rng = np.random.default_rng(0)  # the same on every rank
    return [batch.Sequence(rng.choice(tokens, n), _ends(n)) for n in lengths]


def _others_reversed(sequences: list[batch.Sequence]) -> list[batch.Sequence]:
    """The same sequences, with other tokens in all but the last."""
    *others, last = sequences
    return [*(replace(s, token_ids=s.token_ids[::-1].copy()) for s in others), last]


def _later_reversed(sequence: batch.Sequence) -> tuple[batch.Sequence, int]:
    """With other tokens in the later half, and how many tokens are scored before it."""
    half = len(sequence.token_ids) // 2
    ids = np.concatenate([sequence.token_ids[:half], sequence.token_ids[half:][::-1]])
    return replace(sequence, token_ids=ids), int(sequence.action_mask[:half].sum())


def _ends(length: int) -> NDArray[np.bool_]:
    index = np.arange(length)
    return (index > 0) & ((index <= SCORED) | (index >= length - SCORED))


def _special_tokens(config: PretrainedConfig) -> set[int]:
    """Ids that stand for pictures, the end of a text and the like."""
    named = [value for key, value in vars(config).items() if key.endswith(("_id", "_index"))]
    return {value for value in named if isinstance(value, int)}


def _flash(config: PretrainedConfig) -> bool:
    return config._attn_implementation in FLASH_ATTENTION


def _logprobs(
    score: ScoreFn,
    sequences: list[batch.Sequence],
    microbatches: list[list[list[int]]],
    pad: int = 0,
) -> list[NDArray[np.float64]]:
    """Log-probabilities of each sequence's scored tokens; a microbatch is a list of rows."""
    built = [batch.build(sequences, rows) for rows in microbatches]
    scores = score([_padded_with(m, pad) for m in built] if pad else built)
    flat = np.concatenate([s.logprobs.double().cpu().numpy() for s in scores])
    ends = np.cumsum([s.action_mask.sum() for s in sequences])
    return np.split(flat, ends[:-1])


def _padded_with(microbatch: MicroBatch, token: int) -> MicroBatch:
    """With another token than 0 where no sequence is."""
    ids, pads = microbatch.token_ids.flatten().clone(), np.ones(microbatch.token_ids.numel(), bool)
    for start, length in zip(microbatch.sequence_starts, microbatch.lengths, strict=True):
        pads[start : start + length] = False
    ids[torch.from_numpy(pads)] = token
    return replace(microbatch, token_ids=ids.view_as(microbatch.token_ids))


def _gap(alone: list[NDArray[np.float64]], together: list[NDArray[np.float64]]) -> float:
    """Largest mean absolute difference of a sequence, nats; infinite where it is not a number."""
    means = [np.abs(a - b).mean() for a, b in zip(alone, together, strict=True)]
    return float(np.nan_to_num(means, nan=np.inf).max())
