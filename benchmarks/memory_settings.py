"""What `benchmarks.partitioned_memory` measures: models by size, and ways to train them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SIZES = {  # width, feed-forward, layers, heads, vocabulary
    "tiny": (64, 128, 2, 2, 300),
    "20M": (256, 704, 24, 4, 8_000),
    "100M": (768, 2048, 12, 12, 16_000),
    "0.5B": (1024, 2816, 32, 16, 32_000),
    "1.5B": (2048, 5632, 28, 16, 32_000),
    "7B": (4096, 11008, 32, 32, 32_000),
}


@dataclass(frozen=True)
class Setting:
    """What is trained, and how.

    size: one of SIZES.
    vocabulary: instead of the size's; 0 for the size's own.
    ranks, stage: of the learner; the ZeRO stage.
    dtype: float32 or bfloat16.
    offload: the optimizer's state to the host, whose memory is the same one on a CPU.
    lora: rank of adapters; 0 trains every weight.
    checkpointing: of gradients.
    tokens, length: of a microbatch, and of a sequence.
    sgd: plain SGD, which has no moments, in AdamW's place.
    """

    size: str = "tiny"
    vocabulary: int = 0
    ranks: int = 2
    stage: int = 3
    dtype: str = "bfloat16"
    offload: bool = False
    lora: int = 0
    checkpointing: bool = False
    tokens: int = 64
    length: int = 32
    sgd: bool = False


ACCOUNT = (
    Setting("100M", ranks=1, stage=0, dtype="float32"),
    Setting("100M", ranks=1, stage=0),
    Setting("100M", ranks=1, stage=0, lora=16, dtype="float32"),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=2048, length=64),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=4096, length=64, checkpointing=True),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=512, vocabulary=64_000),
    Setting("100M", stage=1, dtype="float32"),
    Setting("100M", stage=2),
    Setting("100M", stage=3, dtype="float32"),
    Setting("100M", stage=3),
    Setting("100M", stage=3, offload=True),
    Setting("100M", stage=3, dtype="float32", offload=True),
)
ON_GPU = (  # of one card of 80 GB
    Setting("0.5B", ranks=1, stage=0, tokens=4096, length=512),
    Setting("0.5B", ranks=1, stage=0, dtype="float32", tokens=4096, length=512),
    Setting("1.5B", ranks=1, stage=0, tokens=8192, length=1024),
    Setting("1.5B", ranks=1, stage=0, tokens=8192, length=1024, checkpointing=True),
    Setting("1.5B", ranks=1, stage=1, tokens=8192, length=1024, offload=True, checkpointing=True),
    Setting("1.5B", ranks=1, stage=3, tokens=8192, length=1024, offload=True, checkpointing=True),
    Setting("1.5B", ranks=1, stage=0, tokens=8192, length=1024, lora=16),
    Setting("7B", ranks=1, stage=0, tokens=8192, length=1024, lora=16, checkpointing=True),
)


def llama_config(setting: Setting):
    """The model's."""
    from transformers import LlamaConfig

    hidden, mlp, layers, heads, vocabulary = SIZES[setting.size]
    return LlamaConfig(
        vocab_size=setting.vocabulary or vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def make_model(folder: Path, setting: Setting) -> None:
    """Write a Llama of zeros; in memory it takes what any other does."""
    import torch
    from transformers import LlamaForCausalLM

    config = llama_config(setting)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    folder.mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    header, end = {}, 0
    for name, weight in model.named_parameters():
        offsets = [end, end + 2 * weight.numel()]
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def parameters(setting: Setting) -> int:
    """Number of the model's."""
    hidden, mlp, layers, _, vocabulary = SIZES[setting.size]
    layer = 4 * hidden**2 + 3 * hidden * mlp + 2 * hidden
    return layers * layer + 2 * (setting.vocabulary or vocabulary) * hidden + hidden
