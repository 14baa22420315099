"""Trajectories: alignment is checked at birth, and Arrow brings back what it was given."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.trajectory import Segment, Trajectory, Turn, from_arrow, mark_failed, to_arrow


def segment(spans, length, seed=0):
    """A segment whose turns are `spans` [(begin, end), …]."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(length, bool)
    for begin, end in spans:
        mask[begin:end] = True
    return Segment(
        rng.integers(0, 99, length).astype(np.int32),
        mask,
        np.where(mask, -rng.random(length), 0).astype(np.float32),
        np.where(mask, 3, -1).astype(np.int32),
        tuple(Turn(b, e, float(i) - 1, f"turn {i}") for i, (b, e) in enumerate(spans)),
        image_keys=("k1", "k2")[: seed % 3],
    )


def trajectory(name="ppo/1", segments=None, **changes):
    fields = dict(
        id=name, environment="e", variant="v", seed=4, group_id=2,
        segments=segments or (segment([(3, 5), (7, 10)], 10), segment([(2, 4)], 6, 1)),
        end="terminated", metrics={"success": 1.0},
    )  # fmt: skip
    return Trajectory(**fields | changes)


def same(a: Trajectory, b: Trajectory) -> bool:
    arrays = ("token_ids", "action_mask", "behavior_logprobs", "policy_versions")
    return (
        all(
            getattr(a, n) == getattr(b, n)
            for n in ("id", "environment", "variant", "seed", "group_id", "end", "failure",
                      "bootstrap", "metrics")
        )
        and len(a.segments) == len(b.segments)
        and all(
            x.turns == y.turns
            and x.image_keys == y.image_keys
            and all(np.array_equal(getattr(x, n), getattr(y, n)) for n in arrays)
            for x, y in zip(a.segments, b.segments, strict=True)
        )
    )  # fmt: skip


@given(st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=4), max_size=4))
def test_arrow_round_trip_over_the_wire(shape):
    """Any number of segments and turns, through the bytes that really travel."""
    segments = []
    for i, lengths in enumerate(shape):
        spans, at = [], 0
        for length in lengths:
            spans.append((at + 2, at + 2 + length))
            at += 2 + length
        segments.append(segment(spans, at + 1, i))
    ts = [trajectory("a", tuple(segments)), trajectory("b"), mark_failed(trajectory("c"), "why")]
    sink = pa.BufferOutputStream()
    batch = to_arrow(ts)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    back = from_arrow(next(iter(pa.ipc.open_stream(sink.getvalue()))))
    assert all(same(a, b) for a, b in zip(ts, back, strict=True))


def test_arrays_of_a_block_are_views():
    batch = to_arrow([trajectory()])
    ids = from_arrow(batch)[0].segments[0].token_ids
    assert not ids.flags.owndata and not ids.flags.writeable


def test_numbers_of_a_trajectory():
    t = trajectory()
    assert t.tokens == 16 and t.action_tokens == 7 and t.oldest_version == 3
    assert [turn.reward for turn in t.turns] == [-1.0, 0.0, -1.0] and t.total_reward == -2.0


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


def test_ends_are_three():
    with pytest.raises(ValueError, match="'done'"):
        trajectory(end="done")
    with pytest.raises(ValueError, match="bootstraps"):
        trajectory(bootstrap=True)
