"""What a microbatch takes of a GPU, simulated: the real policy on tensors that have no data.

`python -m benchmarks.simulated_peak` prints one JSON row per model of `model_sizes`: the peak
of what a forward and backward pass holds beside weights and gradients, by torch's own memory
tracker, and what the memory account says of it.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks.model_sizes import KEYS, SHAPES, VOCABULARY, size
from cluster.placement.learner_memory import Rank, activations, attention_mask, logits
from configs.load import load
from configs.schema import RunConfig
from learner.model import ActorCritic, ForwardOptions

GIB = 2**30
SEQUENCE = 1024  # tokens


def policy(name: str) -> ActorCritic:
    """A model of `SHAPES`, as `learner.model.load_actor_critic` makes it with `KEYS`."""
    hidden, mlp, layers, heads, kv, tied = SHAPES[name]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=tied,
        vocab_size=VOCABULARY,
    )
    trunk = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    trunk.train()
    trunk.gradient_checkpointing_enable({"use_reentrant": False})
    made = ActorCritic(trunk, None)
    made._output_layer._checked = True  # it would compare numbers
    return made


def simulated(name: str, cfg: RunConfig) -> int:
    """Bytes beside weights and gradients at the peak of a pass over a microbatch."""
    tokens = cfg.learner.microbatch_tokens
    rows = max(1, tokens // SEQUENCE)
    with FakeTensorMode():
        model = policy(name)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        token_ids = torch.zeros(rows, tokens // rows, dtype=torch.long)
        positions = torch.arange(tokens // rows).expand(rows, -1)
        actions = torch.arange(1, tokens)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            none = torch.zeros(0, dtype=torch.long)
            logprobs, *_ = model(token_ids, positions, actions, none, ForwardOptions())
            logprobs.sum().backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
        return int(peak["Total"]) - 2 * weights


def row(name: str, cfg: RunConfig) -> dict[str, object]:
    """Simulated and by the account."""
    run = Rank(cfg, size(SHAPES[name]))
    account = activations(run) + attention_mask(run) + logits(run)
    found = simulated(name, cfg)
    return {
        "name": f"Qwen2.5-{name}: activations and logits of a microbatch, GiB",
        "tokens": cfg.learner.microbatch_tokens,
        "simulated": round(found / GIB, 3),
        "account": round(account / GIB, 3),
        "ratio": round(account / found, 3),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", type=int, help="of a microbatch; those of the table")
    options = parser.parse_args(arguments)
    keys = [*KEYS, f"rollout.context_tokens={SEQUENCE}", "learner.packing=flat"]
    if options.tokens:
        keys.append(f"learner.microbatch_tokens={options.tokens}")
    for name in options.models:
        print(json.dumps(row(name, load("gp_l", keys))), flush=True)


if __name__ == "__main__":
    main()
