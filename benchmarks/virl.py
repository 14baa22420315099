"""How fast V-IRL is on one core: steps in words, observations in pictures, routes, memory.

Run `python -m benchmarks.virl`; prints one JSON row per figure, in CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from datetime import date

from envs.virl.env import VIRL


def rate(env: VIRL, seeds: range, routes: int | None = None) -> float:
    """Observations (resets and steps) a CPU second, the expert playing."""
    begin, count = time.process_time(), 0
    for seed in seeds:
        env.reset(seed=seed, options=None if routes is None else {"route": seed % routes})
        for _ in range(len(env.rail)):
            env.step(env.expert())
            count += 1
    return count / (time.process_time() - begin)


def row(name: str, **figures: float) -> None:
    """Print one figure with its machine and date."""
    at = {"machine": platform.machine(), "date": date.today().isoformat()}
    print(
        json.dumps({"name": name} | {k: round(v, 1) for k, v in figures.items()} | at), flush=True
    )


def words(episodes: int) -> None:
    """Steps a second where landmarks are text."""
    for style in ("full", "brief"):
        env = VIRL(prompt_style=style)
        rate(env, range(min(20, episodes)))
        row(f"V-IRL-L, {style} prompts", steps_per_s=rate(env, range(episodes)))


def views(sizes: list[int], episodes: int) -> None:
    """Observations per second where landmarks are pictures, drawn again and from the cache."""
    for size in sizes:
        env = VIRL(modality="vision", image_size=size, prompt_style="brief", cache_mib=256)
        rate(env, range(990, 993))
        cold = rate(env, range(episodes))
        rate(env, range(3, 6), 1)
        warm = rate(env, range(3, 3 + episodes // 2 + 1), 1)
        row(
            f"V-IRL-VL, 4 x {size} px", observations_per_s_cold=cold, observations_per_s_cached=warm
        )


def memory(routes: int) -> None:
    """How far the process grows over many routes, and what its cache holds."""
    begin = time.process_time()
    env = VIRL(modality="vision", image_size=64, prompt_style="brief", cache_mib=16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(routes):
        env.reset(seed=seed)
        env.step(env.expert())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = env.world.store.held_bytes / 2**20  # type: ignore[attr-defined]
    row(
        f"V-IRL-VL, {routes} routes of 64 px, cache_mib=16",
        held_mib=held,
        grown_mib=(after - before) / 1024,
        seconds=time.process_time() - begin,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224, 640], help="pixels")
    parser.add_argument(
        "--episodes", type=int, default=1000, help="in words; a fiftieth in pictures"
    )
    options = parser.parse_args(arguments)
    words(options.episodes)
    views(options.sizes, max(1, options.episodes // 50))
    memory(options.episodes)


if __name__ == "__main__":
    main()
