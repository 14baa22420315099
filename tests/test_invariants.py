"""Invariants that belong to no single file; docs/invariants.md names the tests of all."""

import ast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.paths import ROOT
from rollout.trajectory import Segment, Trajectory, Turn
from tests.support import layering


def trajectory(versions: list[list[int]]) -> Trajectory:
    """One segment per list: a prompt of two tokens, then an answer of these policy versions."""
    segments = []
    for sampled in versions:
        length = 2 + len(sampled)
        mask = np.arange(length) >= 2
        segments.append(
            Segment(
                np.arange(length, dtype=np.int32),
                mask,
                np.where(mask, -1.0, 0.0).astype(np.float32),
                np.array([-1, -1, *sampled], np.int32),
                (Turn(2, length, 0.0),) if sampled else (),
            )
        )
    metrics = {"success": 0.0, "first_try": 0.0}
    return Trajectory("x", "e", "train", 0, 0, tuple(segments), "truncated", metrics)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4))
def test_the_oldest_action_token_decides(versions):
    """staleness-is-bounded: neither the newest token nor one of a prompt says how old it is."""
    sampled = [version for answer in versions for version in answer]
    assert trajectory(versions).oldest_version == min(sampled, default=-1)


@pytest.mark.parametrize("name", ["action_mask", "behavior_logprobs", "policy_versions"])
@pytest.mark.parametrize("more", [-1, 1])
def test_no_array_is_shorter_or_longer_than_the_tokens(name, more):
    """alignment: an array that is off by one is no segment."""
    (segment,) = trajectory([[1, 1]]).segments
    arrays = {
        n: getattr(segment, n)
        for n in ("token_ids", "action_mask", "behavior_logprobs", "policy_versions")
    }
    arrays[name] = np.resize(arrays[name], len(arrays[name]) + more)
    with pytest.raises(ValueError, match=f"Segment.{name} has"):
        Segment(**arrays, turns=segment.turns)


def test_no_code_of_a_model_folder_runs():
    """no-model-output-is-executed: transformers asks at the terminal unless it is told not to."""
    found = []
    for name, _, tree in layering.sources(ROOT, *layering.ROOMS, "benchmarks", "tools"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                stated = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if stated.get("trust_remote_code") != "False":
                    found.append(f"{name}: {ast.unparse(node)}")
    # A generation configuration holds no code.
    assert found == ["rollout/renderer.py: GenerationConfig.from_pretrained(folder)"]
