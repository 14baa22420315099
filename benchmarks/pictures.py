"""What pictures cost on their way: V-IRL-VL trajectories through Ray's object store.

Real environments play (right answers seven times in ten, else a wrong one and its retry), real
blocks travel from one process to another. Beside them the same pictures by value, an array a
turn. Prints JSON rows.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import ray

from envs.registry import make
from rollout.pictures import Picture
from rollout.trajectory import Block, Segment, Trajectory, Turn, from_block, to_block

SETTINGS = {"modality": "vision", "prompt_style": "brief", "image_size": 112}
BLOCK = 64
TOKENS = 90  # of a segment; about what a brief prompt with its picture and answer has


def play(env: Any, seed: int) -> tuple[Trajectory, list[np.ndarray]]:
    """One episode without an engine; its trajectory, and the picture of each turn's prompt."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    segments, shown = [], []
    turns: list[Turn] = []
    ended = False
    while not ended:
        picture = Picture.of(observation["image"])
        shown.append(observation["image"])
        right = rng.random() < 0.7
        observation, reward, terminated, truncated, _ = env.step(env.expert() if right else "no")
        begin = TOKENS // 2 if not turns else turns[-1].end + 5
        turns.append(Turn(begin, begin + 10, float(reward)))
        ended = terminated or truncated
        if ended or observation["restart"]:
            length = turns[-1].end
            mask = np.zeros(length, bool)
            for turn in turns:
                mask[turn.begin : turn.end] = True
            segments.append(
                Segment(
                    rng.integers(0, 400, length).astype(np.int32),
                    mask,
                    np.where(mask, -1.0, 0).astype(np.float32),
                    np.where(mask, 0, -1).astype(np.int32),
                    tuple(turns),
                    (picture,),
                )
            )
            turns = []
    name = f"ppo/{seed:06d}"
    return Trajectory(name, "virl", "train", seed, seed, tuple(segments), "terminated"), shown


@ray.remote(num_cpus=1)
class Player:
    """Holds what was played; packs it as blocks, or as arrays by value."""

    def __init__(self, seeds: list[int]) -> None:
        env = make("cardinal/VIRL-v0", SETTINGS)
        self.played = [play(env, seed) for seed in seeds]

    def turns(self) -> tuple[int, int]:
        """Turns, and bytes of their pictures."""
        shown = [image for _, images in self.played for image in images]
        return len(shown), sum(image.nbytes for image in shown)

    def block(self, start: int) -> Block:
        """Trajectories as they travel."""
        return to_block([t for t, _ in self.played[start : start + BLOCK]])

    def arrays(self, start: int, dtype: str) -> list[list[np.ndarray]]:
        """A copy of its picture for each turn."""
        return [
            [np.array(image, dtype) for image in images]
            for _, images in self.played[start : start + BLOCK]
        ]


def move(method: Any, starts: range, opened: Any, *args: Any) -> tuple[float, int]:
    """Seconds until every object is made there, moved and opened here, and its bytes.

    One object after another, so that none waits in memory; the first warms up.
    """
    opened(ray.get(method.remote(0, *args)))
    seconds, size = 0.0, 0
    for start in starts:
        begin = time.perf_counter()
        size += opened(ray.get(method.remote(start, *args)))
        seconds += time.perf_counter() - begin
    return seconds, size


def open_block(block: Block) -> int:
    """Trajectories out of a block; its bytes."""
    assert from_block(block)
    return block.nbytes


def decode_block(block: Block) -> int:
    """The same, and every picture's pixels."""
    for trajectory in from_block(block):
        for segment in trajectory.segments:
            for picture in segment.pictures:
                picture.pixels()
    return block.nbytes


def open_arrays(values: list[list[np.ndarray]]) -> int:
    """Bytes of arrays by value."""
    return sum(image.nbytes for images in values for image in images)


def row(name: str, **numbers: float) -> None:
    print(json.dumps({"benchmark": name, **{k: round(v, 4) for k, v in numbers.items()}}))


def main(arguments: list[str] | None = None) -> None:
    """Play, move, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1000)
    n = parser.parse_args(arguments).trajectories
    ray.init("local", num_cpus=2, object_store_memory=2**31, log_to_driver=False)
    player = Player.remote(list(range(n)))
    turns, pixels = ray.get(player.turns.remote())
    starts = range(0, n, BLOCK)

    seconds, moved = move(player.block, starts, open_block)
    decoded, _ = move(player.block, starts, decode_block)
    row(
        "pictures: V-IRL-VL blocks",
        trajectories=n,
        turns=turns,
        bytes_each=moved / n,
        seconds=seconds,
        gb_per_s=pixels / seconds / 1e9,
        seconds_with_decoding=decoded,
        gb_per_s_with_decoding=pixels / decoded / 1e9,
    )
    for dtype in ("uint8", "float32"):
        seconds, size = move(player.arrays, starts, open_arrays, dtype)
        row(
            f"pictures: {dtype} arrays by value",
            bytes_each=size / n,
            seconds=seconds,
            bytes_ratio=size / moved,
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
