"""Trajectories: alignment is checked at birth, and Arrow brings back what it was given."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.trajectory import Block, Segment, Trajectory, Turn, from_block, to_block
from tests.support.trajectories import PIXELS, mark_failed, segment, trajectory


def same(a: Trajectory, b: Trajectory) -> bool:
    arrays = ("token_ids", "action_mask", "behavior_logprobs", "policy_versions")
    return (
        all(
            getattr(a, n) == getattr(b, n)
            for n in (
                "id",
                "environment",
                "variant",
                "seed",
                "group_id",
                "question",
                "end",
                "failure",
                "bootstrap",
                "metrics",
            )
        )
        and len(a.segments) == len(b.segments)
        and all(
            x.turns == y.turns
            and x.pictures == y.pictures
            and all(np.array_equal(getattr(x, n), getattr(y, n)) for n in arrays)
            for x, y in zip(a.segments, b.segments, strict=True)
        )
    )


def travelled(batch):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return next(iter(pa.ipc.open_stream(sink.getvalue())))


@given(st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=4), max_size=4))
def test_arrow_round_trip(shape):
    """Any number of segments, turns and pictures, through serialized bytes."""
    segments = []
    for i, lengths in enumerate(shape):
        spans, at = [], 0
        for length in lengths:
            spans.append((at + 2, at + 2 + length))
            at += 2 + length
        segments.append(segment(spans, at + 1, i))
    ts = [trajectory("a", tuple(segments)), mark_failed(trajectory("b"), "why")]
    ts += [trajectory("c"), trajectory("d", end="truncated", bootstrap=True)]
    back = from_block(Block(*(travelled(table) for table in to_block(ts))))
    assert all(same(a, b) for a, b in zip(ts, back, strict=True))


def test_arrays_of_a_block_are_views():
    batch = to_block([trajectory()])
    ids = from_block(batch)[0].segments[0].token_ids
    assert not ids.flags.owndata
    assert not ids.flags.writeable


def test_some_rows_of_a_block_are_read_in_their_order():
    ts = [trajectory(str(i), (segment([(3, 5)], 6 + i, i),)) for i in range(4)]
    block = to_block(ts)
    assert [t.id for t in from_block(block, [3, 1])] == ["3", "1"]
    assert all(same(a, b) for a, b in zip(from_block(block, [3, 1]), [ts[3], ts[1]], strict=True))
    assert from_block(block, []) == []


def test_a_picture_is_in_a_block_once_and_is_viewed():
    ts = [trajectory(str(i), (segment([(3, 5)], 5, 2),)) for i in range(5)]
    block = to_block(ts)
    assert block.pictures.num_rows == 2
    first, second = (from_block(block)[i].segments[0].pictures[0] for i in (0, 4))
    assert first.data.address == second.data.address
    assert (first.pixels() == PIXELS[0]).all()


def test_numbers_of_a_trajectory():
    t = trajectory()
    assert t.tokens == 16
    assert t.action_tokens == 7
    assert t.oldest_version == 3
    assert [turn.reward for turn in t.turns] == [-1.0, 0.0, -1.0]
    assert t.total_reward == -2.0


@pytest.mark.parametrize(
    ("versions", "oldest"),
    [
        ([[4, 4], [6, 5]], 4),
        ([[6], [], [5, 7]], 5),
        ([[6, 4, 5]], 4),
        ([[], [7]], 7),
        ([[]], -1),
    ],
)
def test_the_oldest_version_is_that_of_any_action_token_of_any_segment(versions, oldest):
    """Staleness-is-bounded: weights arrive within an answer and between two segments."""
    segments = [
        replace(
            segment([(2, 2 + len(own))], 3 + len(own)),
            policy_versions=np.array([-1, -1, *own, -1], np.int32),
        )
        for own in versions
    ]
    assert trajectory(segments=tuple(segments)).oldest_version == oldest


@pytest.mark.parametrize(
    "change",
    [
        dict(action_mask=np.zeros(9, bool)),
        dict(behavior_logprobs=np.zeros(11, np.float32)),
        dict(turns=(Turn(3, 6, 0.0), Turn(7, 10, 0.0))),
        dict(turns=(Turn(3, 5, 0.0),)),
        dict(turns=(Turn(7, 10, 0.0), Turn(3, 5, 0.0))),
    ],
)
def test_misaligned_segments_are_refused(change):
    good = segment([(3, 5), (7, 10)], 10)
    fields = {n: getattr(good, n) for n in good.__dataclass_fields__} | change
    with pytest.raises(ValueError, match=r"Segment|Turn"):
        Segment(**fields)


@pytest.mark.parametrize(
    ("spans", "turns", "sentence"),
    [
        ([(0, 2)], [(0, 2)], r"Turn \[0, 2\) does not fit after 0 in 10"),
        ([(3, 5)], [(3, 5), (4, 5)], r"Turn \[4, 5\) does not fit after 5"),
        ([(8, 10)], [(8, 11)], r"Turn \[8, 11\) does not fit after 0 in 10"),
        ([(3, 5), (7, 10)], [(2, 4), (7, 10)], r"Turn \[2, 4\) covers tokens not sampled"),
        ([(3, 5), (7, 10)], [(3, 5)], "marks tokens that belong to no turn"),
    ],
)
def test_turns_are_exactly_what_was_sampled(spans, turns, sentence):
    """A prompt comes before the first; each has its own tokens, all of them sampled."""
    mask = np.zeros(10, bool)
    for begin, end in spans:
        mask[begin:end] = True
    arrays = np.arange(10, dtype=np.int32), mask, np.zeros(10, np.float32), np.zeros(10, np.int32)
    with pytest.raises(ValueError, match=sentence):
        Segment(*arrays, tuple(Turn(begin, end, 0.0) for begin, end in turns))


def test_ends_are_three():
    with pytest.raises(ValueError, match="'done'"):
        trajectory(end="done")
    with pytest.raises(ValueError, match="bootstraps"):
        trajectory(bootstrap=True)
