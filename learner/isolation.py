"""Whether sequences of a row, or of a microbatch, leave each other alone in the model at hand.

Tried at the start, because no table of models says it: recurrent layers carry their state from one
sequence of a row into the next, and so does a model that counts its own positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
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
    """

    packing: str
    row_gap: float
    influence: float
    padded_gap: float
    cause: str = ""


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
    requested, rounding = cfg.learner.packing, ROUNDING[cfg.model.dtype]
    flat = requested == "flat" or (requested == "auto" and _flash(config))
    name = _name(config)
    sequences = probe(config, cfg, flat, forbidden)
    try:
        rows = 0 if requested == "padded" else 1 if flat else 2
        gaps = _measure(score, sequences, rows)
    except Exception as error:  # the boundary to transformers: a model's first forward pass
        raise ValueError(
            f"{name} cannot be trained: its forward pass fails: {one_line(error)}"
        ) from error
    row, influence, padded = distributed.all_max(gaps).tolist()
    if padded > rounding:
        raise ValueError(
            f"{name} cannot be trained: its log-probabilities of a sequence change by {padded:.2g} "
            f"nats when it is padded or stands beside others; they must agree to {rounding:g}"
        )
    if row <= rounding and influence <= INFLUENCE[cfg.model.dtype]:
        return PackingCheck("flat" if flat else requested, row, influence, padded)
    leak = (
        f"sequences that share a row change each other's log-probabilities in {name} by "
        f"{max(row, influence):.2g} nats"
    )
    if requested != "auto":
        raise ValueError(f"learner.packing={requested}: {leak}; padded and auto give each its own")
    cause = f"{leak}, so each gets its own (padded)"
    return PackingCheck("padded", row, influence, padded, cause)


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
    key = f"learner.sequence_parallel={cfg.learner.sequence_parallel}"
    rounding = ROUNDING[cfg.model.dtype]
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
    except Exception as error:  # the boundary to transformers: a model's first forward passes
        raise ValueError(f"{key}: {_name(config)} cannot: {one_line(error)}") from error
    gaps = [_gap(a, b) for a, b in zip(alone, shared, strict=True)]
    gap = float(distributed.all_max([max(gaps)])[0])
    if gap > rounding:
        raise ValueError(
            f"{key}: {_name(config)} has layers by which a token depends on others than by "
            f"attention: its log-probabilities change by {gap:.2g} nats when rows are shared out; "
            f"they must agree to {rounding:g}"
        )


def _name(config: PretrainedConfig) -> str:
    return config.architectures[0] if config.architectures else str(config.model_type)


def _measure(
    score: ScoreFn, sequences: list[batch.Sequence], rows: int
) -> tuple[float, float, float]:
    """The gaps of a PackingCheck: row, influence, padded.

    Args:
        score: as of `check_packing`.
        sequences: those of a row.
        rows: most rows of several sequences in a microbatch of the run, 2 for any number; 0 if
            there are no such rows, and then the first two gaps are 0.
    """
    every = list(range(len(sequences)))
    alone = _logprobs(score, sequences, [[[i]] for i in every])
    padded = _gap(alone, _logprobs(score, sequences, [[[i] for i in every]]))
    if not rows:
        return 0.0, 0.0, padded
    together = _logprobs(score, sequences, [[every]])
    beside_others = _logprobs(score, _others_reversed(sequences), [[every]])
    gap = _gap(alone, together)
    if rows > 1:
        gap = max(gap, _gap_in_two_rows(score, sequences))
    return gap, _gap(together[-1:], beside_others[-1:]), padded


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
    score: ScoreFn, sequences: list[batch.Sequence], microbatches: list[list[list[int]]]
) -> list[NDArray[np.float64]]:
    """Log-probabilities of each sequence's scored tokens; a microbatch is a list of rows."""
    scores = score([batch.build(sequences, rows) for rows in microbatches])
    flat = np.concatenate([s.logprobs.double().cpu().numpy() for s in scores])
    ends = np.cumsum([s.action_mask.sum() for s in sequences])
    return np.split(flat, ends[:-1])


def _gap(alone: list[NDArray[np.float64]], together: list[NDArray[np.float64]]) -> float:
    """Largest mean absolute difference of a sequence, nats; infinite where it is not a number."""
    means = [np.abs(a - b).mean() for a, b in zip(alone, together, strict=True)]
    return float(np.nan_to_num(means, nan=np.inf).max())
