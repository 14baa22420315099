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
LONGROPE = ("longrope", "su")  # "su" in Phi-3's first files
ORIGINAL_POSITIONS = "original_max_position_embeddings"


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
    linear = (kind.get("factor") or 1.0 for kind in _rotary(config, ("linear",)))
    return int(longest * max(linear, default=1.0))


def longrope_positions(config: Mapping[str, Any]) -> int | None:
    """Positions that longrope's short factors are for, by the keys of a config.json.

    Longer ones have other factors (Phi-3.5, Phi-4-mini). Transformers takes these for a whole
    batch where one of its sequences is longer, vLLM for all where its context is.
    """
    for kind in _rotary(config, LONGROPE):
        return kind.get(ORIGINAL_POSITIONS) or config.get(ORIGINAL_POSITIONS)
    return None


def _rotary(config: Mapping[str, Any], types: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """The model's parameters of rotary positions, or those of each kind of layer, of some types."""
    rope = config.get("rope_scaling") or config.get("rope_parameters")  # transformers' order
    if not isinstance(rope, Mapping):
        return []
    parts = [part for part in (rope, *rope.values()) if isinstance(part, Mapping)]
    return [part for part in parts if part.get("rope_type", part.get("type")) in types]
