"""Packs token sequences into microbatches within a token budget and a picture budget.

Input: sequences. Output: microbatches, whose rows keep sequences apart by position ids alone
(causal attention, no mask argument).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heapreplace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from configs.schema import PACKINGS
from rollout.pictures import Picture

# Costs of a plan in tokens' worth of compute, measured on a CPU with 1-3M parameters.
MICROBATCH_COST = 64  # one more forward and backward pass
RECURRING_TOKENS = 512  # a bucket's rows are a multiple of 2^k, which have at most so many tokens
PACKED_FACTOR = 1.2  # the block mask, and attention that cannot use the causal kernel

Ints = NDArray[np.integer]
Indices = TypeVar("Indices", torch.Tensor, Ints)
Rows = list[list[int]]  # indices into the list of sequences, row by row
PackingPlan = tuple[float, list[Rows]]  # cost in tokens; the rows of each microbatch


@dataclass(frozen=True)
class Sequence:
    """One contiguous token sequence of a learner's batch (a segment, or a demonstration).

    token_ids: int [T].
    action_mask: bool [T], True on action tokens, whose log-probabilities are computed; never at
        index 0. Each unbroken run of True is one turn's answer.
    value_positions: int [K], indices whose final hidden state the value head reads.
    pictures: in the order of their tokens.
    """

    token_ids: Ints
    action_mask: NDArray[np.bool_]
    value_positions: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if length == 0 or self.action_mask[0]:
            raise ValueError(
                "Sequence.action_mask[0] marks a token that nothing predicts"
                if length
                else "Sequence.token_ids is empty; it needs at least one token"
            )
        if len(self.action_mask) != length:
            raise ValueError(
                f"Sequence action_mask has {len(self.action_mask)} entries, token_ids {length}"
            )


@dataclass(frozen=True)
class MicroBatch:
    """Input of one forward pass: R rows of L tokens; N action tokens; M values; S sequences.

    token_ids, position_ids: int64 [R, L]; position ids restart at each sequence. In packed
        rows padding is a sequence of its own at the end; in rows of one sequence it continues
        the positions, so that the fast causal kernel can be used (no real token attends to it).
    actions: int64 [N], flat indices into R * L of the action tokens, sequence by sequence.
    value_positions: int64 [M], flat indices into R * L.
    turns: int64 [N], number of the turn within this microbatch, 0, 1, … without gaps.
    order: int [S], indices of the sequences in the list that was packed.
    action_counts, value_counts: int [S].
    tokens: number of tokens without padding.
    pictures: in the order of their tokens in the rows, which is that of `order`.
    picture_counts: int [S], of each sequence.
    sequence_starts: int [S], flat indices where the sequences begin; lengths: int [S].
    token_columns, value_columns: float32 [N] and [M] by name (advantages, value targets, …).
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    actions: torch.Tensor
    value_positions: torch.Tensor
    turns: torch.Tensor
    order: Ints
    action_counts: Ints
    value_counts: Ints
    tokens: int
    pictures: tuple[Picture, ...]
    picture_counts: Ints
    sequence_starts: Ints
    lengths: Ints
    token_columns: dict[str, torch.Tensor] = field(default_factory=dict)
    value_columns: dict[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same microbatch with its tensors on a device."""
        if self.token_ids.device == torch.device(device):
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            token_ids=move(self.token_ids),
            position_ids=move(self.position_ids),
            actions=move(self.actions),
            value_positions=move(self.value_positions),
            turns=move(self.turns),
            token_columns={name: move(column) for name, column in self.token_columns.items()},
            value_columns={name: move(column) for name, column in self.value_columns.items()},
        )


def microbatches(
    sequences: list[Sequence], token_budget: int, packing: str = "auto", picture_budget: int = 64
) -> list[MicroBatch]:
    """Pack sequences into microbatches of at most `token_budget` tokens, padding counted.

    Args:
        sequences: in any order; each gets into exactly one microbatch (`MicroBatch.order`).
        token_budget: of a microbatch; a longer sequence gets a microbatch of its own.
        packing: "padded" one sequence a row, rows of similar length together; "packed" several
            in a row, rows as long as the longest sequence; "flat" one row without padding, for
            attention of variable length; "auto" the cheaper of padded and packed.
        picture_budget: most pictures of a microbatch; a row with more gets one of its own.

    Raises:
        ValueError: unknown packing.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing is {packing!r}; it must be one of {PACKINGS}")
    if not sequences:
        return []
    lengths = np.array([len(s.token_ids) for s in sequences])
    pictures = [len(s.pictures) for s in sequences]
    if packing == "flat":
        rows = _plan_flat(lengths, token_budget, pictures, picture_budget)
        return [build(sequences, [row]) for row in rows]
    plans = []
    if packing in ("auto", "padded"):
        plans.append(_plan_padded(lengths, token_budget))
    if packing in ("auto", "packed"):
        plans.append(_plan_packed(lengths, token_budget))
    _, plan = min(plans, key=lambda pair: pair[0])
    return [
        build(sequences, part)
        for rows in plan
        for part in _split_by_pictures(rows, pictures, picture_budget)
    ]


def dummy(token_ids: list[int] | None = None, pictures: tuple[Picture, ...] = ()) -> MicroBatch:
    """One row with one action and one value, for a forward pass whose result is discarded.

    Args:
        token_ids: of the row; two zeros when None.
        pictures: of these tokens.
    """
    ids = np.zeros(2, np.int64) if token_ids is None else np.array(token_ids, np.int64)
    mask = np.arange(len(ids)) == len(ids) - 1
    return build([Sequence(ids, mask, np.zeros(1, np.int64), pictures=pictures)], [[0]])


def append(microbatch: MicroBatch, other: MicroBatch) -> MicroBatch:
    """The microbatch with the row of another, and its pictures, behind its own.

    It continues a single row, because flash attention tells the sequences of a row apart only
    where there is no second one; else it is a row below. The other's actions and values are left
    out: its tokens pass through the model, no more.
    """
    rows, old_width = microbatch.token_ids.shape
    width = max(old_width, other.token_ids.shape[1])

    def join(own: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if rows == 1:
            return torch.cat((own, new), 1)
        return torch.cat(tuple(functional.pad(t, (0, width - t.shape[1])) for t in (own, new)))

    def widen(flat: Indices) -> Indices:
        return flat // old_width * width + flat % old_width

    begin = old_width if rows == 1 else rows * width
    return replace(
        microbatch,
        token_ids=join(microbatch.token_ids, other.token_ids),
        position_ids=join(microbatch.position_ids, other.position_ids),
        actions=widen(microbatch.actions),
        value_positions=widen(microbatch.value_positions),
        pictures=microbatch.pictures + other.pictures,
        picture_counts=np.append(microbatch.picture_counts, other.picture_counts),
        sequence_starts=np.append(widen(microbatch.sequence_starts), begin + other.sequence_starts),
        lengths=np.append(microbatch.lengths, other.lengths),
    )


def _plan_padded(lengths: Ints, token_budget: int) -> PackingPlan:
    """Cut the sequences, sorted by length, where padding costs more than another microbatch.

    Exact dynamic programme over the places to cut at: a bucket of n sequences padded to its
    longest costs n * longest tokens and one MICROBATCH_COST for each budget's worth of rows.
    """
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order]
    starts = np.append(0, np.flatnonzero(_may_cut(longest)) + 1)
    ends = np.append(starts[1:], len(order))
    widths = longest[starts]
    rows = np.maximum(1, token_budget // widths)
    best, cut = np.zeros(len(ends) + 1), np.zeros(len(ends) + 1, np.int64)
    for b in range(1, len(ends) + 1):
        n = ends[b - 1] - starts[:b]
        cost = best[:b] + n * widths[:b] + MICROBATCH_COST * np.ceil(n / rows[:b])
        cut[b] = int(np.argmin(cost))
        best[b] = cost[cut[b]]
    plan: list[Rows] = []
    b = len(ends)
    while b > 0:
        a = int(cut[b])
        indices, step = order[starts[a] : ends[b - 1]].tolist(), int(rows[a])
        plan = _split_evenly([[index] for index in indices], step) + plan
        b = a
    return float(best[-1]), plan


def _may_cut(lengths: Ints) -> NDArray[np.bool_]:
    """Whether a bucket may end after each of the descending lengths but the last.

    Short sequences are cut at every 2^k-th, so that shapes recur: oneDNN compiles kernels for
    each new one, which takes longer than a small microbatch.
    """
    step = 1 << max(0, int(RECURRING_TOKENS // lengths[0]).bit_length() - 1)
    if step == 1:
        return lengths[1:] < lengths[:-1]
    places = np.arange(1, len(lengths))
    return (places % step == 0) | (lengths[1:] < 0.75 * lengths[:-1])


def _plan_packed(lengths: Ints, token_budget: int) -> PackingPlan:
    """Best fit, longest first, into rows as long as the longest sequence."""
    width = int(lengths.max())
    rows: Rows = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        at = bisect_left(room, (length, -1))
        if at == len(room):
            rows.append([])
            free, row = width, len(rows) - 1
        else:
            free, row = room.pop(at)
        rows[row].append(index)
        insort(room, (free - length, row))
    plan = _split_evenly(rows, max(1, token_budget // width))
    return PACKED_FACTOR * len(rows) * width + MICROBATCH_COST * len(plan), plan


def _split_evenly(rows: Rows, most: int) -> list[Rows]:
    """As few microbatches of at most `most` rows as can be, of about equally many rows."""
    count = math.ceil(len(rows) / most)
    bounds = [len(rows) * i // count for i in range(count + 1)]
    return [rows[begin:end] for begin, end in pairwise(bounds)]


def _split_by_pictures(rows: Rows, pictures: list[int], picture_budget: int) -> Iterator[Rows]:
    """Cut a microbatch's rows where their pictures would exceed the budget."""
    part: Rows = []
    count = 0
    for row in rows:
        more = sum(pictures[index] for index in row)
        if part and count + more > picture_budget:
            yield part
            part, count = [], 0
        part.append(row)
        count += more
    yield part


def _plan_flat(lengths: Ints, token_budget: int, pictures: list[int], picture_budget: int) -> Rows:
    """One row per microbatch: as few as the budgets allow, of about equally many tokens."""
    shown = np.array(pictures)
    large = (lengths > token_budget) | (shown > picture_budget)  # each gets a row of its own
    alone, rest = [[i] for i in np.flatnonzero(large).tolist()], np.flatnonzero(~large)
    least = math.ceil(lengths[rest].sum() / token_budget)
    for count in range(least, len(rest) + 1):
        rows = _level(lengths, rest, count)
        if all(
            lengths[row].sum() <= token_budget and shown[row].sum() <= picture_budget
            for row in rows
        ):
            return alone + rows
    return alone


def _level(lengths: Ints, indices: Ints, count: int) -> Rows:
    """So many rows of about equally many tokens: the longest first, each to the shortest row."""
    rows: Rows = [[] for _ in range(count)]
    filled = [(0, row) for row in range(count)]
    for index in indices[np.argsort(-lengths[indices], kind="stable")].tolist():
        tokens, row = filled[0]
        heapreplace(filled, (tokens + int(lengths[index]), row))
        rows[row].append(index)
    return [sorted(row) for row in rows if row]


def _place(lengths: Ints, rows: Rows) -> tuple[Ints, Ints]:
    """Flat indices [S] where the sequences begin, and the tokens of each row [R]."""
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    filled = np.bincount(row_of, lengths, minlength=len(rows)).astype(np.int64)
    row_begins = np.cumsum(filled) - filled
    starts = (np.cumsum(lengths) - lengths) - row_begins[row_of] + row_of * filled.max()
    return starts, filled


def build(sequences: list[Sequence], rows: Rows) -> MicroBatch:
    """One microbatch: the sequences written into rows, each row a list of their indices."""
    order = np.array([index for row in rows for index in row])
    parts = [sequences[index] for index in order]
    lengths = np.array([len(s.token_ids) for s in parts])
    ends = np.cumsum(lengths)
    starts, filled = _place(lengths, rows)
    width = int(filled.max())

    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    flat = np.repeat(starts, lengths) + within
    token_ids = np.zeros(len(rows) * width, np.int64)
    token_ids[flat] = np.concatenate([s.token_ids for s in parts])
    position_ids = np.tile(np.arange(width), (len(rows), 1))
    if len(rows) < len(parts):
        position_ids -= filled[:, None]  # padding restarts at 0
        position_ids.reshape(-1)[flat] = within

    mask = np.concatenate([s.action_mask for s in parts])
    first = mask.copy()
    first[1:] &= ~mask[:-1]
    action_counts = np.add.reduceat(mask, ends - lengths, dtype=np.int64)
    value_counts = np.array([len(s.value_positions) for s in parts])
    values = np.concatenate([s.value_positions for s in parts]).astype(np.int64)
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids).view(len(rows), width),
        position_ids=torch.from_numpy(position_ids),
        actions=torch.from_numpy(flat[mask]),
        value_positions=torch.from_numpy(values + np.repeat(starts, value_counts)),
        turns=torch.from_numpy(np.cumsum(first)[mask] - 1),
        order=order,
        action_counts=action_counts,
        value_counts=value_counts,
        tokens=int(ends[-1]),
        pictures=tuple(p for s in parts for p in s.pictures),
        picture_counts=np.array([len(s.pictures) for s in parts]),
        sequence_starts=starts,
        lengths=lengths,
    )
