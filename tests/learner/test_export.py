"""What an exported folder holds: the weights, the source's other files, and where answers end."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, GPT2Config, GPT2LMHeadModel

from learner import export
from learner.export import save_trunk, share_weights
from learner.trunk import load_trunk
from rollout.renderer import Renderer
from tests.support.learner import save_llama
from tests.support.real_templates import BY_NAME


@pytest.mark.parametrize("key", ["temperature", "top_p", "early_stopping"])
def test_a_trunk_is_saved_whatever_its_configuration_says_of_generation(tmp_path, key):
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    (source / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((source / "config.json").read_text())
    value = True if key == "early_stopping" else 0.7
    (source / "config.json").write_text(json.dumps(config | {key: value, "eos_token_id": 5}))
    trunk = load_trunk(source, torch.float32, "sdpa")
    save_trunk(trunk, source, target, trunk.state_dict().items())
    again = load_trunk(target, torch.float32, "sdpa")
    assert getattr(again.generation_config, key) == value
    assert again.generation_config.eos_token_id == 5
    assert getattr(trunk.generation_config, key) == value  # it can be saved again
    save_trunk(trunk, source, target, trunk.state_dict().items(), stop_ids=(5, 6))
    again = load_trunk(target, torch.float32, "sdpa")
    assert again.generation_config.eos_token_id == [5, 6]
    assert getattr(again.generation_config, key) == value
    assert all(torch.equal(w, trunk.state_dict()[n]) for n, w in again.state_dict().items())


def test_a_trunk_is_saved_with_the_other_files_of_its_folder(tmp_path):
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    generation = '{"temperature": 0.6, "eos_token_id": [6, 5, 7]}'  # transformers calls it invalid
    (source / "generation_config.json").write_text(generation)
    (source / "tokenizer.json").write_text("{}")
    (source / "original").mkdir()
    of_torch = ("pytorch_model.bin", "model.pth", "x.index.json", "consolidated.pt")
    of_others = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx", "model.gguf")
    for name in (*of_torch, *of_others):
        (source / name).write_bytes(b"x")
    trunk = load_trunk(source, torch.float32, "sdpa")
    for folder in (target, source):  # also in place
        save_trunk(trunk, source, folder, trunk.state_dict().items(), stop_ids=(5, 6))
        assert (folder / "generation_config.json").read_text() == generation
        assert (folder / "tokenizer.json").read_text() == "{}"
    files = {file.name for file in target.iterdir()}
    given = {"generation_config.json", "tokenizer.json", "config.json", "model.safetensors"}
    assert files == given


@pytest.mark.parametrize(
    ("given", "written"),
    [({}, [5, 6]), ({"eos_token_id": 5}, [5, 6]), ({"eos_token_id": [9, 6]}, [9, 6, 5])],
    ids=["none", "one", "several"],
)
def test_stop_tokens_that_the_source_does_not_name_are_added(tmp_path, given, written):
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    kept = {"do_sample": True, "temperature": 0.6, "stop_strings": ["é"], "bos_token_id": 1}
    text = json.dumps(kept | given, ensure_ascii=False)
    (source / "generation_config.json").write_text(text, "utf-8")
    trunk = load_trunk(source, torch.float32, "sdpa")
    save_trunk(trunk, source, target, trunk.state_dict().items(), stop_ids=(5, 6))
    values = json.loads((target / "generation_config.json").read_text("utf-8"))
    assert values == kept | {"eos_token_id": written}
    save_trunk(trunk, source, target, trunk.state_dict().items())  # none are known: as it is
    assert (target / "generation_config.json").read_text("utf-8") == text


def test_what_ends_a_turn_by_the_template_ends_it_for_who_loads_the_export(tmp_path):
    """ChatML on a base model, whose own end token the template never writes.

    vLLM's server reads the file as transformers does, and stops at no other token.
    """
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    tokenizer = BY_NAME["chatml"].tokenizer()
    tokenizer.save_pretrained(source)
    own, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    GenerationConfig(eos_token_id=own, do_sample=True, top_p=0.8).save_pretrained(source)
    trunk = load_trunk(source, torch.float32, "sdpa")
    stop_ids = Renderer.load(str(source)).stop_ids
    save_trunk(trunk, source, target, trunk.state_dict().items(), stop_ids)
    read = GenerationConfig.from_pretrained(target)
    assert set(read.eos_token_id) == {own, end} == set(stop_ids)
    assert (read.do_sample, read.top_p) == (True, 0.8)


def test_its_config_json_is_the_sources(tmp_path):
    """With dropout, which training turns off, and in names that transformers would replace."""
    source, target = tmp_path / "source", tmp_path / "target"
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    config |= {"hidden_size": config.pop("n_embd"), "attn_pdrop": 0.25, "of_vllm": {"é": [448]}}
    text = json.dumps(config, ensure_ascii=False)
    (source / "config.json").write_text(text, "utf-8")
    trunk = load_trunk(source, torch.float32, "sdpa")
    for folder in (target, source):  # also in place
        save_trunk(trunk, source, folder, trunk.state_dict().items())
        assert (folder / "config.json").read_text("utf-8") == text
    again = AutoConfig.from_pretrained(target)
    assert (again.n_embd, again.attn_pdrop, again.resid_pdrop) == (8, 0.25, 0.1)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, {"dtype": "bfloat16"}),
        ({"dtype": None}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        (
            {"dtype": "float32", "part": {"dtype": "float32", "depth": 2}},
            {"dtype": "bfloat16", "part": {"dtype": "bfloat16", "depth": 2}},
        ),
    ],
    ids=["absent", "null", "of old", "of parts"],
)
def test_its_config_json_says_the_dtype_of_the_weights(tmp_path, given, written):
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    config = json.loads((source / "config.json").read_text())
    del config["dtype"]
    (source / "config.json").write_text(json.dumps(config | given))
    trunk = load_trunk(source, torch.bfloat16, "sdpa")
    save_trunk(trunk, source, target, trunk.state_dict().items())
    assert json.loads((target / "config.json").read_text()) == config | written
    assert AutoConfig.from_pretrained(target).dtype == torch.bfloat16


def test_weights_are_written_in_files_of_a_size_one_after_another(tmp_path, monkeypatch):
    source, target = save_llama(tmp_path / "source", tied=False), tmp_path / "target"
    trunk = load_trunk(source, torch.float32, "sdpa")
    weights = {name: weight.detach() for name, weight in trunk.named_parameters()}
    monkeypatch.setattr(export, "FILE_BYTES", 20_000)
    assert export.trunk_bytes(trunk) == sum(w.nbytes for w in weights.values()) < 16 * 20_000
    save_trunk(trunk, source, target, weights.items())
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 3
    assert [f.name for f in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert all(sum(t.nbytes for t in load_file(f).values()) <= 20_000 for f in files)
    again = load_trunk(target, torch.float32, "sdpa").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    monkeypatch.setattr(export, "FILE_BYTES", 10_000)
    monkeypatch.setattr(export, "FILES", 4)
    save_trunk(trunk, source, tmp_path / "few", weights.items())
    assert 4 <= len(list((tmp_path / "few").glob("*.safetensors"))) <= 6  # tensors are not cut
    monkeypatch.undo()
    save_trunk(trunk, target, target, weights.items())  # in one file, in their place
    assert [f.name for f in target.glob("*.safetensors*")] == ["model.safetensors"]
    assert not list(target.glob("*.draft"))
    again = load_trunk(target, torch.float32, "sdpa").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_a_weight_is_copied_before_the_next_is_requested(tmp_path):
    """Gathered weights are freed then."""
    source, target = save_llama(tmp_path / "source"), tmp_path / "target"
    trunk = load_trunk(source, torch.float32, "sdpa")

    def weights():
        for name, weight in trunk.named_parameters():
            lent = weight.detach().t().clone().t()  # not contiguous
            yield name, lent
            lent.zero_()

    save_trunk(trunk, source, target, weights())
    again = load_trunk(target, torch.float32, "sdpa").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in trunk.named_parameters())


def test_weights_are_as_readable_as_their_configuration(tmp_path):
    for name, mode in (("config.json", 0o640), ("model.safetensors", 0o600), ("a.bin", 0o600)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    share_weights(tmp_path)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640, "a.bin": 0o600}
