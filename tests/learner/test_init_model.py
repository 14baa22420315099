"""The tiny model: equal seeds give equal bytes, and plain transformers loads it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from configs.load import build
from configs.schema import RunConfig
from envs.registry import make
from learner.init_model import init_model
from rollout.pictures import Picture
from rollout.processor import PictureProcessor

GP = "cardinal/GeneralPoints-v0"


def corpus():
    return make(GP, {"prompt_style": "brief"}).corpus()


def digest(folder):
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir() if f.is_file()
    }


def test_same_seed_same_bytes(tmp_path):
    init = {"model": {"init": {"layers": 1, "hidden": 32, "heads": 1, "mlp": 32}}}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        init_model(tmp_path / name, build(RunConfig, init | {"seed": seed}, ""), corpus())
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert (
        digest(tmp_path / "a")["model.safetensors"] != digest(tmp_path / "c")["model.safetensors"]
    )


def vision_config(**vision):
    vision = {"layers": 1, "hidden": 32, "heads": 1, "mlp": 32, "patch_size": 8} | vision
    init = {"layers": 1, "hidden": 32, "heads": 1, "mlp": 32, "vision": vision}
    return build(RunConfig, {"model": {"init": init}}, "")


def test_a_vision_model_comes_with_its_processor(tmp_path):
    init_model(tmp_path, vision_config(image_size=64, merge=2), corpus(), vision=True)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = PictureProcessor.load(tmp_path)
    assert model.config.image_token_id == processor.token_id
    picture = Picture.of(np.full((64, 64, 3), 90, np.uint8))
    assert processor.features(picture) == (64 // 8 // 2) ** 2
    ids = torch.tensor([processor.tokens(picture)])
    with torch.no_grad():
        logits = model(input_ids=ids, **processor.inputs([picture])).logits
    assert logits.shape[1] == ids.shape[1]


def test_picture_sizes_that_do_not_divide_are_refused(tmp_path):
    cfg = vision_config(image_size=40, merge=2)
    with pytest.raises(ValueError, match=r"image_size is 40; it must be a multiple of .* = 16"):
        init_model(tmp_path, cfg, corpus(), vision=True)


def test_who_may_read_its_configuration_may_read_its_weights(tiny_model):
    files = (Path(tiny_model, name) for name in ("config.json", "model.safetensors"))
    configuration, weights = (file.stat().st_mode for file in files)
    assert weights == configuration


def test_it_loads_in_plain_transformers(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() != embedding.data_ptr()
