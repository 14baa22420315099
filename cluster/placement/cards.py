"""The memory of this machine's GPUs, as NVIDIA's driver tells it.

Input: how many of them count. Output: bytes of the smallest; None where nvidia-smi is absent or
does not answer, or where a GPU is divided (MIG), of which it names the whole.
"""

from __future__ import annotations

import subprocess

ASK = ("nvidia-smi", "--query-gpu=mig.mode.current,memory.total", "--format=csv,noheader,nounits")
ANSWER_S = 15.0  # a driver that no process holds is loaded first


def smallest_card(count: int) -> int | None:
    """Of the `count` largest: those that are hidden from a run are rather the display's."""
    try:
        done = subprocess.run(
            ASK,
            capture_output=True,
            text=True,
            check=True,
            timeout=ANSWER_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return smallest(done.stdout, count)


def smallest(answer: str, count: int) -> int | None:
    """As `smallest_card`, of nvidia-smi's lines."""
    rows = [[field.strip() for field in line.split(",")] for line in answer.splitlines()]
    if len(rows) < count or any(divided == "Enabled" or not m.isdigit() for divided, m in rows):
        return None
    return sorted((int(m) for _, m in rows), reverse=True)[count - 1] * 2**20
