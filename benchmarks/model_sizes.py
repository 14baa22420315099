"""Which model fits where, by the estimate of `cardinal check`: GPUs that a policy needs at least.

`python -m benchmarks.model_sizes` prints one JSON row per model, `--table` the table of
docs/cluster.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any, NamedTuple

from cluster.placement import engine_memory
from cluster.placement.memory import card_bytes, received
from cluster.placement.rank import Rank
from cluster.placement.types import RESERVE
from configs.load import load
from configs.model_folder import ModelSize, Shape, size_of

GIB = 2**30
SHAPES = {  # of Qwen2.5: width, feed-forward, layers, heads, key-value heads, head tied to input
    "0.5B": (896, 4864, 24, 14, 2, True),
    "1.5B": (1536, 8960, 28, 12, 2, True),
    "3B": (2048, 11008, 36, 16, 2, True),
    "7B": (3584, 18944, 28, 28, 4, False),
    "14B": (5120, 13824, 48, 40, 8, False),
    "32B": (5120, 27648, 64, 40, 8, False),
    "72B": (8192, 29568, 80, 64, 8, False),
}
VOCABULARY = 152_064
GPUS = {"24": "L4, A10G", "48": "L40S", "80": "A100, H100", "141": "H200"}  # GiB each
KEYS = (
    "model.dtype=bfloat16",
    "model.gradient_checkpointing=true",
    "learner.zero_stage=3",
    "learner.microbatch_tokens=8192",
    "rollout.context_tokens=8192",
    "sft.batch_size=512",
)


def size(shape: tuple[int, int, int, int, int, bool]) -> ModelSize:
    """Sizes of such a model, from the names and shapes that transformers gives its tensors."""
    hidden, mlp, layers, heads, kv, tied = shape
    narrow = hidden // heads * kv
    layer: dict[str, Shape] = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"},
        **{f"self_attn.{name}_proj.weight": (narrow, hidden) for name in "kv"},
        "self_attn.q_proj.bias": (hidden,),
        **{f"self_attn.{name}_proj.bias": (narrow,) for name in "kv"},
        **{f"mlp.{name}_proj.weight": (mlp, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, mlp),
        **{f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")},
    }
    tensors: dict[str, Shape] = {
        "model.embed_tokens.weight": (VOCABULARY, hidden),
        **{f"model.layers.{n}.{name}": layer[name] for n in range(layers) for name in layer},
        "model.norm.weight": (hidden,),
    }
    if not tied:
        tensors["lm_head.weight"] = (VOCABULARY, hidden)
    return size_of(tensors.items(), layers, hidden, VOCABULARY, None)


class Least(NamedTuple):
    """Of a model on GPUs of one size; 0 ranks or GPUs of an engine where 64 do not do.

    peak_gib: of a rank's GPU, by the account, with so many ranks.
    """

    ranks: int
    parallel: int
    peak_gib: float


def least(model: ModelSize, gib: float, overrides: tuple[str, ...] = ()) -> Least:
    """Learner ranks and tensor parallelism at least, powers of two."""
    base, ranks, parallel, peak = load("gp_l", [*KEYS, *overrides]), 0, 0, 0.0
    share = base.rollout.gpu_memory * gib * GIB
    arrives = received(base, model) <= gib * GIB - share
    for count in (64, 32, 16, 8, 4, 2, 1):
        cfg = dataclasses.replace(base, learner=dataclasses.replace(base.learner, ranks=count))
        most = max(card_bytes(cfg, model).values()) / GIB
        if most <= RESERVE * gib:
            ranks, peak = count, most
        rollout = dataclasses.replace(base.rollout, tensor_parallel=count)
        engine = Rank(dataclasses.replace(base, rollout=rollout), model)
        if arrives and sum(engine_memory.on_gpu(engine).values()) <= share:
            parallel = count
    return Least(ranks, parallel, peak)


def rows() -> list[dict[str, Any]]:
    """One row per model."""
    found = []
    for name, shape in SHAPES.items():
        model = size(shape)
        fits = {gib: least(model, float(gib)) for gib in GPUS}
        found.append(
            {
                "name": f"Qwen2.5-{name}: GPUs at least by GiB: ranks, tensor parallel, peak GiB",
                "parameters": sum(model.parameters.values()),
                "weights_gib": round(sum(model.parameters.values()) * 2 / GIB, 1),
                "fits": fits,
                "keys": list(KEYS),
            }
        )
    return found


def table_row(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    fits = [
        f"{found.ranks} + {found.parallel or 'none'} ({found.peak_gib:.0f})"
        if found.ranks
        else f"over 64 + {found.parallel or 'none'}"
        for found in row["fits"].values()
    ]
    head = row["name"].split(":")[0], f"{row['parameters'] / 1e9:.2f} B", f"{row['weights_gib']:g}"
    return "| " + " | ".join([*head, *fits]) + " |"


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["model", "parameters", "weights, GiB", *(f"{g} GiB ({GPUS[g]})" for g in GPUS)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return "\n".join([*lines, *map(table_row, found)])


def main(arguments: list[str] | None = None) -> None:
    """Print the rows, or the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    found = rows()
    if parser.parse_args(arguments).table:
        print(table(found))
    else:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in found)


if __name__ == "__main__":
    main()
