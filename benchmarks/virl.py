"""How fast V-IRL is on one core: steps in words, observations in pictures, routes, memory.

In: nothing (run `python -m benchmarks.virl`). Out: one line a figure, CPU seconds of this process.
"""

import resource
import time

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


def main() -> None:
    for style in ("full", "brief"):
        env = VIRL(prompt_style=style)
        rate(env, range(20))
        print(f"V-IRL-L, {style} prompts: {rate(env, range(1000)):.0f} steps/s")
    for size in (64, 128, 224, 640):
        env = VIRL(modality="vision", image_size=size, prompt_style="brief", cache_mib=256)
        rate(env, range(990, 993))
        cold = rate(env, range(20))
        warm = rate(env, range(3, 6), 1)
        warm = rate(env, range(3, 13), 1)
        print(f"V-IRL-VL, 4 x {size} px: {cold:.0f} observations/s cold, {warm:.0f} cached")
    begin = time.process_time()
    env = VIRL(modality="vision", image_size=64, prompt_style="brief", cache_mib=16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(1000):
        env.reset(seed=seed)
        env.step(env.expert())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = env.world.store.held_bytes / 2**20  # type: ignore[attr-defined]
    print(
        f"1000 routes, 64 px: {held:.0f} MiB of panoramas held (bound 16), process grew by "
        f"{(after - before) / 1024:.0f} MiB, {time.process_time() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
