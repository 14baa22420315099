"""The longest sequence that a model reads, by its text configuration, as vLLM derives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Tokens; None without a limit.

    Where several keys name a limit, vLLM keeps the smallest, or model_max_length. Linear scaling
    stretches it; configurations of the other kinds name it stretched. That of dynamic scaling is
    not stretched: past it, the longest sequence of a batch changes the factors of all.
    """
    named = [limit for key in KEYS if isinstance(limit := config.get(key), int)]
    longest = config.get("model_max_length") or min(named, default=None)
    if longest is None or "gemma3" in str(config.get("model_type")):  # named stretched there, too
        return longest
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, Mapping)]
    linear = (kind for kind in kinds if kind.get("rope_type", kind.get("type")) == "linear")
    return int(longest * max((kind.get("factor") or 1.0 for kind in linear), default=1.0))
