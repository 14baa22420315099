"""Sequences in, microbatches within a token and a picture budget out: padded, packed or flat.

Rows keep sequences apart by position ids alone (causal attention, no mask argument). Nothing
here knows of models, losses, trajectories or ranks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rollout.pictures import Picture

LAYOUTS = ("auto", "padded", "packed", "flat")
# Costs of the layout plan in tokens' worth of compute, measured on a CPU with 1-3M parameters.
MICROBATCH_COST = 32  # one more forward and backward pass
PACKED_FACTOR = 1.2  # the block mask, and attention that cannot use the causal kernel

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Sequence:
    """One contiguous token sequence of a learner's batch (a segment, or a demonstration).

    token_ids: int [T].
    action_mask: bool [T], True where the log-probability is wanted; never at index 0. Each
        unbroken run of True is one turn's answer.
    value_positions: int [K], indices whose final hidden state the value head reads.
    token_columns: float32 [T] by name (advantages, behaviour log-probabilities, …).
    value_columns: float32 [K] by name (value targets, …).
    pictures: in the order of their tokens.

    All sequences of one batch have the same column names.
    """

    token_ids: Ints
    action_mask: NDArray[np.bool_]
    value_positions: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    token_columns: Mapping[str, Floats] = field(default_factory=dict)
    value_columns: Mapping[str, Floats] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if length == 0 or self.action_mask[0]:
            raise ValueError(
                "Sequence.action_mask[0] marks a token that nothing predicts"
                if length
                else "Sequence.token_ids is empty; it needs at least one token"
            )
        for name, column in {"action_mask": self.action_mask, **self.token_columns}.items():
            if len(column) != length:
                raise ValueError(f"Sequence {name} has {len(column)} entries, token_ids {length}")
        for name, column in self.value_columns.items():
            if len(column) != len(self.value_positions):
                raise ValueError(
                    f"Sequence {name} has {len(column)} entries, "
                    f"value_positions {len(self.value_positions)}"
                )


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads. R rows of L tokens; N action tokens; M values; S sequences.

    token_ids, position_ids: int64 [R, L]; position ids restart at each sequence. In packed
        rows padding is a sequence of its own at the end; in rows of one sequence it continues
        the positions, so that the fast causal kernel serves (nothing real looks ahead at it).
    actions: int64 [N], flat indices into R * L of the action tokens, sequence by sequence.
    value_positions: int64 [M], flat indices into R * L.
    turns: int64 [N], number of the turn within this microbatch, 0, 1, … without gaps.
    token_columns, value_columns: float32 [N] and [M] by name.
    order: int [S], places of the sequences in the list that was packed.
    action_counts, value_counts: int [S].
    tokens: number of tokens without padding.
    pictures: in the order of their tokens in the rows, which is that of `order`.
    picture_counts: int [S], of each sequence.
    sequence_starts: int [S], flat indices where the sequences begin; lengths: int [S].
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    actions: torch.Tensor
    value_positions: torch.Tensor
    turns: torch.Tensor
    token_columns: dict[str, torch.Tensor]
    value_columns: dict[str, torch.Tensor]
    order: Ints
    action_counts: Ints
    value_counts: Ints
    tokens: int
    pictures: tuple[Picture, ...]
    picture_counts: Ints
    sequence_starts: Ints
    lengths: Ints

    @property
    def turn_count(self) -> int:
        """Turns that have at least one action token."""
        return int(self.turns[-1]) + 1 if len(self.turns) else 0

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same microbatch with its tensors on a device."""
        if self.token_ids.device == torch.device(device):
            return self
        names = ("token_ids", "position_ids", "actions", "value_positions", "turns")
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device, non_blocking=True) for name in names
        }
        columns: dict[str, Any] = {
            name: {k: v.to(device, non_blocking=True) for k, v in getattr(self, name).items()}
            for name in ("token_columns", "value_columns")
        }
        return replace(self, **moved, **columns)


def microbatches(
    sequences: list[Sequence], budget: int, layout: str = "auto", pictures: int = 64
) -> list[MicroBatch]:
    """Pack sequences into microbatches of at most `budget` tokens, padding counted.

    Args:
        sequences: in any order; each is in exactly one microbatch, told by `order`.
        budget: tokens; a longer sequence gets a microbatch of its own.
        pictures: most pictures of a microbatch; a row with more gets one of its own.
        layout: "padded" one sequence a row, rows of like length together; "packed" several in
            a row, rows as long as the longest sequence; "flat" one row without padding, for
            attention of variable length; "auto" the cheaper of padded and packed.

    Raises:
        ValueError: unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be one of {LAYOUTS}")
    if not sequences:
        return []
    lengths = np.array([len(s.token_ids) for s in sequences])
    shown = [len(s.pictures) for s in sequences]
    if layout == "flat":
        return [_build(sequences, [row]) for row in _flat(lengths, budget, shown, pictures)]
    plans = []
    if layout in ("auto", "padded"):
        plans.append(_padded(lengths, budget))
    if layout in ("auto", "packed"):
        plans.append(_packed(lengths, budget))
    _, plan = min(plans, key=lambda pair: pair[0])
    fitting = (part for rows in plan for part in _within(rows, shown, pictures))
    return [_build(sequences, rows) for rows in fitting]


def empty(token_ids: list[int] | None = None, pictures: tuple[Picture, ...] = ()) -> MicroBatch:
    """One row with one action and one value: a pass whose result has no weight.

    Args:
        token_ids: of the row; two zeros when None.
        pictures: of these tokens.
    """
    ids = np.zeros(2, np.int64) if token_ids is None else np.array(token_ids, np.int64)
    mask = np.arange(len(ids)) == len(ids) - 1
    return _build([Sequence(ids, mask, np.zeros(1, np.int64), pictures=pictures)], [[0]])


Plan = tuple[float, list[list[list[int]]]]  # cost in tokens; microbatches of rows of places


def beside(microbatch: MicroBatch, other: MicroBatch) -> MicroBatch:
    """The microbatch with the rows of another below, whose actions and values count for nothing."""
    width = max(microbatch.token_ids.shape[1], other.token_ids.shape[1])

    def rows(name: str) -> torch.Tensor:
        parts = [getattr(m, name) for m in (microbatch, other)]
        return torch.cat([functional.pad(p, (0, width - p.shape[1])) for p in parts])

    def moved(flat: Any) -> Any:
        old = microbatch.token_ids.shape[1]
        return flat // old * width + flat % old

    return replace(
        microbatch,
        token_ids=rows("token_ids"),
        position_ids=rows("position_ids"),
        actions=moved(microbatch.actions),
        value_positions=moved(microbatch.value_positions),
        pictures=microbatch.pictures + other.pictures,
        picture_counts=np.append(microbatch.picture_counts, other.picture_counts),
        sequence_starts=np.append(
            moved(microbatch.sequence_starts),
            other.sequence_starts + len(microbatch.token_ids) * width,
        ),
        lengths=np.append(microbatch.lengths, other.lengths),
    )


def _padded(lengths: Ints, budget: int) -> Plan:
    """Cut the sequences, sorted by length, where padding costs more than another microbatch.

    Exact dynamic programme over distinct lengths: a bucket of n sequences padded to its
    longest costs n * longest tokens and one MICROBATCH_COST for each budget's worth of rows.
    """
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(longest)) + 1])
    ends = np.append(starts[1:], len(order))
    widths = longest[starts]
    rows = np.maximum(1, budget // widths)
    best, cut = np.zeros(len(ends) + 1), np.zeros(len(ends) + 1, np.int64)
    for b in range(1, len(ends) + 1):
        n = ends[b - 1] - starts[:b]
        cost = best[:b] + n * widths[:b] + MICROBATCH_COST * np.ceil(n / rows[:b])
        cut[b] = int(np.argmin(cost))
        best[b] = cost[cut[b]]
    plan: list[list[list[int]]] = []
    b = len(ends)
    while b > 0:
        a = int(cut[b])
        places, step = order[starts[a] : ends[b - 1]].tolist(), int(rows[a])
        chunks = [places[i : i + step] for i in range(0, len(places), step)]
        plan = [[[place] for place in chunk] for chunk in chunks] + plan
        b = a
    return float(best[-1]), plan


def _packed(lengths: Ints, budget: int) -> Plan:
    """Best fit, longest first, into rows as long as the longest sequence."""
    width = int(lengths.max())
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for place in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[place])
        at = bisect_left(room, (length, -1))
        if at == len(room):
            rows.append([])
            free, row = width, len(rows) - 1
        else:
            free, row = room.pop(at)
        rows[row].append(place)
        insort(room, (free - length, row))
    step = max(1, budget // width)
    plan = [rows[i : i + step] for i in range(0, len(rows), step)]
    return PACKED_FACTOR * len(rows) * width + MICROBATCH_COST * len(plan), plan


def _within(rows: list[list[int]], shown: list[int], pictures: int) -> Iterator[list[list[int]]]:
    """Cut a microbatch's rows where its pictures would pass their budget."""
    part: list[list[int]] = []
    used = 0
    for row in rows:
        more = sum(shown[place] for place in row)
        if part and used + more > pictures:
            yield part
            part, used = [], 0
        part.append(row)
        used += more
    yield part


def _flat(lengths: Ints, budget: int, shown: list[int], pictures: int) -> list[list[int]]:
    """Next fit, in the given order."""
    plan: list[list[int]] = []
    used, seen = math.inf, 0
    for place, length in enumerate(lengths.tolist()):
        if used + length > budget or (seen + shown[place] > pictures and seen):
            plan.append([])
            used = seen = 0
        plan[-1].append(place)
        used += length
        seen += shown[place]
    return plan


def _build(sequences: list[Sequence], rows: list[list[int]]) -> MicroBatch:
    """Lay the sequences out as rows[r] says and gather their columns."""
    order = np.array([place for row in rows for place in row])
    parts = [sequences[place] for place in order]
    lengths = np.array([len(s.token_ids) for s in parts])
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.cumsum(lengths)
    filled = np.bincount(row_of, lengths, minlength=len(rows)).astype(np.int64)
    width = int(filled.max())
    row_begins = np.cumsum(filled) - filled
    starts = (ends - lengths) - row_begins[row_of] + row_of * width  # flat, of each sequence

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
        token_columns={
            name: _column([s.token_columns[name] for s in parts], mask)
            for name in parts[0].token_columns
        },
        value_columns={
            name: _column([s.value_columns[name] for s in parts], None)
            for name in parts[0].value_columns
        },
        order=order,
        action_counts=action_counts,
        value_counts=value_counts,
        tokens=int(ends[-1]),
        pictures=tuple(p for s in parts for p in s.pictures),
        picture_counts=np.array([len(s.pictures) for s in parts]),
        sequence_starts=starts,
        lengths=lengths,
    )


def _column(parts: list[Floats], mask: NDArray[np.bool_] | None) -> torch.Tensor:
    values = np.concatenate(parts).astype(np.float32)
    return torch.from_numpy(values if mask is None else values[mask])
