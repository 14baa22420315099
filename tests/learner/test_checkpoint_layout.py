"""A checkpoint's tensors, part by part, are those that transformers would write."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from learner import checkpoint_layout
from learner.checkpoint_layout import CheckpointLayout, shape_bytes, trunk_weights
from tests.support.families import Family, tiny_model

MERGED = {  # what transformers merges: experts, all of a layer; a gate and its up projection
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",  # its router has a buffer too
    "jamba": "JambaForCausalLM",  # experts in every second layer
}


@pytest.fixture(scope="module", params=MERGED)
def trunk(request):
    return tiny_model(Family(request.param, MERGED[request.param], vision=False))


def test_parts_together_are_the_saved_checkpoint(trunk, tmp_path):
    trunk.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    layout = CheckpointLayout(trunk)
    weights = {name: w.detach() for name, w in trunk_weights(trunk)}
    tensors = [t for part in layout.parts for t in layout.tensors(part, weights)]
    assert len(dict(tensors)) == len(tensors)
    assert dict(tensors).keys() == saved.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in tensors)
    assert all(tensor.is_contiguous() for _, tensor in tensors)
    assert layout.shapes() == [(n, t.dtype, tuple(t.shape)) for n, t in tensors]
    assert sorted(n for part in layout.parts for n in part.names) == sorted(weights)
    assert sum(p.nbytes for p in layout.parts) == sum(w.nbytes for w in weights.values())


def test_a_part_holds_the_experts_of_one_layer_and_no_more(trunk):
    merged = [part for part in CheckpointLayout(trunk).parts if not part.renamed]
    layers = [{name.split(".")[2] for name in part.names} for part in merged]
    assert len(merged) > 1
    assert all(len(layer) == 1 for layer in layers)
    assert len({*map(tuple, layers)}) == len(merged)


def test_plain_models_are_one_part_a_weight():
    trunk = tiny_model(Family("llama", "LlamaForCausalLM", vision=False))
    layout = CheckpointLayout(trunk)
    assert all(part.renamed for part in layout.parts)
    assert [n for p in layout.parts for n in p.names] == [n for n, _ in trunk.named_parameters()]
    assert shape_bytes(("w", torch.bfloat16, (3, 5))) == 30


def test_buffers_that_no_checkpoint_holds_are_left_out(trunk):
    names = [name for name, _ in trunk_weights(trunk)]
    assert len(names) == len(set(names))
    assert not any("inv_freq" in name for name in names)
    routers = sum("e_score_correction_bias" in name for name in names)
    assert bool(routers) == (trunk.config.model_type == "glm4_moe")


def test_weights_that_layers_share_are_refused(trunk, monkeypatch):
    real = checkpoint_layout.revert_weight_conversion

    def across(model, state):
        return {"all": torch.cat([t.flatten() for t in real(model, state).values()])}

    monkeypatch.setattr(checkpoint_layout, "revert_weight_conversion", across)
    with pytest.raises(ValueError, match=f"^{type(trunk).__name__}: .* several layers into one"):
        CheckpointLayout(trunk)
