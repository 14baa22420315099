"""What a model can have seen in training of what it is evaluated on, as its configuration says.

Input: resolved configurations; output: words for a page, and how often SFT saw a demonstration.
"""

from __future__ import annotations

from report.metrics import Record

CAN, HELD_OUT, UNKNOWN = "can have been trained on", "held out of training", "not known"
# Settings that decide which GeneralPoints hands are held out.
SPLIT = ("hold_out", "num_cards", "max_rank", "face_rule", "fake_rule")


def exposure(config: Record, variant: str) -> str:
    """Whether a variant's hands or routes can have been trained on: CAN, HELD_OUT or UNKNOWN."""
    env = config.get("env") or {}
    training = env.get("settings") or {}
    changed = ((config.get("eval") or {}).get("variants") or {}).get(variant) or {}
    evaluated = training | changed
    task = str(env.get("id", "")).rpartition(":")[2]
    if task == "cardinal/GeneralPoints-v0":
        return HELD_OUT if _other_hands(training, evaluated) else CAN
    if task == "cardinal/VIRL-v0":
        return HELD_OUT if _other_streets(training, evaluated) else CAN
    return UNKNOWN


def _other_hands(training: Record, evaluated: Record) -> bool:
    """Training on one side of the split, evaluation on the other side of the same one."""
    sides = training.get("hands"), evaluated.get("hands")
    same_split = all(training.get(key) == evaluated.get(key) for key in SPLIT)
    return sides == ("train", "held_out") and same_split


def _other_streets(training: Record, evaluated: Record) -> bool:
    """Another city, or the streets of the same one that training never walks."""
    worlds = [s.get("world", "procedural") for s in (training, evaluated)]
    if worlds != ["procedural", "procedural"]:
        return worlds[0] != worlds[1]
    cities = [s.get("city") or "New York" for s in (training, evaluated)]
    if "benchmark" not in cities and cities[0] != cities[1]:
        return True
    splits = [
        s.get("split") or ("test" if s.get("city") == "benchmark" else "train")
        for s in (training, evaluated)
    ]
    return splits[0] != splits[1]


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
