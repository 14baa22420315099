"""Sequence parallelism: a group of ranks computes each other's microbatches together.

Input: a microbatch of one rank of the group. Output: its Scores, on that rank alone. Each rank
computes an equal part of every row's tokens, in attention all tokens for a part of the heads
(learner/ulysses.py), and so holds that part of the activations. Data and losses stay the rank's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.nn import functional

from configs.schema import LearnerConfig
from learner import distributed
from learner.batch import MicroBatch
from learner.model import Forward, ForwardOptions, Scores
from learner.ulysses import SharedRows, all_to_all, share_rows

COLUMNS = 3  # of an action token: log-probability, entropy, score norm


class Rows(NamedTuple):
    """What all ranks of a group need of a microbatch, on the host; see MicroBatch."""

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    actions: torch.Tensor
    value_positions: torch.Tensor

    @classmethod
    def of(cls, microbatch: MicroBatch) -> Rows:
        """Those of a microbatch."""
        m = microbatch
        return cls(m.token_ids, m.position_ids, m.actions, m.value_positions)

    def widen(self, multiple: int) -> Rows:
        """With padding behind, so that a row's length is a multiple.

        The positions go on, so that a row of one sequence stays one; no other token sees padding.
        """
        width = self.token_ids.shape[1]
        more = -width % multiple
        if more == 0:
            return self
        behind = self.position_ids[:, -1:] + torch.arange(1, more + 1)

        def move(flat: torch.Tensor) -> torch.Tensor:
            return flat // width * (width + more) + flat % width

        return Rows(
            functional.pad(self.token_ids, (0, more)),
            torch.cat((self.position_ids, behind), 1),
            move(self.actions),
            move(self.value_positions),
        )


class Part(NamedTuple):
    """A rank's part of rows: the same columns of each.

    token_ids, position_ids: int64 [R, L / N].
    states: int64 [n], flat indices into the part of the states that predict action tokens;
        targets: int64 [n], these tokens, of which the first may be in the next part.
    value_states: int64 [m], flat indices of those whose values are wanted.
    actions, values: int64 [n] and [m], their places among the rows' actions and value positions.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    states: torch.Tensor
    targets: torch.Tensor
    value_states: torch.Tensor
    actions: torch.Tensor
    values: torch.Tensor


def split(rows: Rows, ranks: int) -> list[Part]:
    """The parts of a group's ranks; the rows' length is a multiple of their number."""
    length = rows.token_ids.shape[1]
    width = length // ranks
    states = rows.actions - 1  # index t is predicted by the state at t - 1
    targets = rows.token_ids.view(-1)[rows.actions]

    def part(rank: int) -> Part:
        begin = rank * width

        def local(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            places = (flat % length // width == rank).nonzero()[:, 0]
            return flat[places] // length * width + flat[places] % length - begin, places

        own, actions = local(states)
        own_values, values = local(rows.value_positions)
        columns = slice(begin, begin + width)
        tokens, positions = (
            t[:, columns].contiguous() for t in (rows.token_ids, rows.position_ids)
        )
        return Part(tokens, positions, own, targets[actions], own_values, actions, values)

    return [part(rank) for rank in range(ranks)]


class SequenceParallel:
    """This rank's group: `size` ranks that follow each other; made by all ranks at once."""

    @classmethod
    def of(cls, learner: LearnerConfig) -> SequenceParallel | None:
        """As `learner.sequence_parallel` says; None where each rank computes its rows alone."""
        return cls(learner.sequence_parallel) if learner.sequence_parallel > 1 else None

    def __init__(self, size: int) -> None:
        self.size = size
        self._group, self._messages = distributed.subgroups(size)

    def passes(self, microbatch: MicroBatch, device: torch.device) -> list[SharedPass]:
        """The group's passes over the microbatch of each of its ranks, in their order; collective.

        device: where this rank computes.
        """
        shared = distributed.all_gather(Rows.of(microbatch), self._messages)
        return [
            SharedPass(rows.widen(self.size), owner, self._group, device)
            for owner, rows in enumerate(shared)
        ]


@dataclass(frozen=True)
class SharedPass:
    """A group's forward pass over the rows of one of its ranks, the owner."""

    rows: Rows
    owner: int
    group: dist.ProcessGroup
    device: torch.device

    @property
    def owned(self) -> bool:
        """Whether this rank gets the scores."""
        return self.owner == self.group.rank()

    def run(self, forward: Forward, options: ForwardOptions) -> Scores:
        """The scores, on their owner; on the other ranks none, but the way of the gradient back."""
        assert not options.distribution, "refused by configs/contradictions.py"
        parts = split(self.rows, self.group.size())
        own = parts[self.group.rank()]
        share_rows(SharedRows(self.rows.position_ids.to(self.device), self.group))
        states, targets = own.states, own.targets
        if len(states) == 0:  # every rank runs the output layer: ZeRO-3 gathers its weight
            states, targets = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        tensors = (own.token_ids, own.position_ids, states + 1, own.value_states)
        outputs = forward(
            *(t.to(self.device) for t in tensors), options, {}, targets.to(self.device)
        )
        scores = Scores(*outputs)
        columns = torch.stack((scores.logprobs, scores.entropy, scores.score_norms), 1)
        return self._collect(columns[: len(own.states)], scores.values, parts)

    def _collect(self, columns: torch.Tensor, values: torch.Tensor, parts: list[Part]) -> Scores:
        """The owner's scores from all parts' columns [n, COLUMNS] and values [m]."""
        sizes = [COLUMNS * len(part.actions) + len(part.values) for part in parts]
        own = sizes[self.group.rank()]
        sent = [own if rank == self.owner else 0 for rank in range(len(parts))]
        received_sizes = sizes if self.owned else [0] * len(parts)
        flat = torch.cat((columns.reshape(-1), values))
        received = all_to_all(flat, sent, received_sizes, self.group)
        if not self.owned:
            return Scores(received, received, received, received)
        counts = [n for p in parts for n in (COLUMNS * len(p.actions), len(p.values))]
        pieces = received.split(counts)
        columns = torch.cat([piece.view(-1, COLUMNS) for piece in pieces[::2]])
        columns = columns[_inverse([part.actions for part in parts])]
        values = torch.cat(pieces[1::2])[_inverse([part.values for part in parts])]
        logprobs, entropy, score_norms = columns.unbind(1)
        return Scores(logprobs, entropy, values, score_norms)


def _inverse(places: list[torch.Tensor]) -> torch.Tensor:
    """Where each place is among all of them, one list after another."""
    return torch.cat(places).argsort()
