"""How often SFT saw each of its demonstrations, as its configuration says."""

from __future__ import annotations

from report.metrics import Record


def demonstrations_seen(config: Record, steps: int | None = None) -> float | None:
    """How often SFT saw each of its demonstrations; None where their number is not configured.

    Args:
        config: of the run.
        steps: SFT steps that count; None: all of them.
    """
    sft = config.get("sft") or {}
    number = sft.get("demonstrations")
    if sft.get("data") is not None or not number or not sft.get("batch_size"):
        return None
    return (sft.get("steps", 0) if steps is None else steps) * sft["batch_size"] / number
