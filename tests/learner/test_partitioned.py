"""A trunk that is partitioned while it is read is the one that transformers loads whole."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner import distributed, partitioned
from learner.checkpoint_layout import full_shape
from learner.partitioned import load_partitioned_trunk, own_share
from learner.trunk import cast_parameters, load_trunk
from tests.support.families import Family, save_tiny
from tests.support.learner import save_idefics, save_llama

OTHERS = [
    Family("mixtral", "MixtralForCausalLM", vision=False),  # experts are merged
    Family("glm4_moe", "Glm4MoeForCausalLM", vision=False),  # routers have buffers in the file
    Family("gpt2", "GPT2LMHeadModel", vision=False),
    Family("mamba", "MambaForCausalLM", vision=False),
    Family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", vision=False),  # float32 in any model
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", vision=True),  # other names in the file
]


def named(case):
    return case.model_type if isinstance(case, Family) else f"{case}"


def folder_of(case, tmp_path):
    if isinstance(case, Family):
        return save_tiny(case, tmp_path)
    return save_idefics(tmp_path) if case == "idefics" else save_llama(tmp_path, tied=case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [True, False, "idefics", *OTHERS], ids=named)
def test_it_is_the_trunk_that_transformers_loads(tmp_path, case, dtype, monkeypatch):
    monkeypatch.setattr(partitioned, "READ_BYTES", 5000)
    folder = folder_of(case, tmp_path)
    expected = load_trunk(folder, dtype, "eager")
    calls = []
    trunk = load_partitioned_trunk(folder, dtype, "eager", calls.append)
    assert len(calls) > 5
    tensors, theirs = trunk.state_dict(), expected.state_dict()
    assert tensors.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensors[name], tensor.to(tensors[name].dtype)), name
    assert all(p.dtype == dtype for p in trunk.parameters())
    buffers = dict(trunk.named_buffers())
    for name, buffer in expected.named_buffers():  # those of no file, too
        assert torch.equal(buffers[name], buffer), name
        assert buffers[name].dtype == buffer.dtype
    shared = [len(dict(t.named_parameters())) for t in (trunk, expected)]
    assert shared[0] == shared[1]  # tied ones are one
    assert all(p.requires_grad for p in trunk.parameters())
    assert not any(module.training for module in trunk.modules())
    assert trunk.config._attn_implementation == "eager"


@pytest.mark.parametrize("case", [False, "idefics", OTHERS[0]], ids=named)
def test_no_more_is_in_memory_than_was_read_last(tmp_path, case, monkeypatch):
    limit, largest = 20_000, 0
    monkeypatch.setattr(partitioned, "READ_BYTES", limit)
    folder = folder_of(case, tmp_path)
    weights: list[torch.nn.Parameter] = []

    def partition(parameters):
        nonlocal largest
        assert all(p.device.type == "cpu" and p.is_contiguous() for p in parameters)
        largest = max(largest, sum(p.nbytes for p in parameters))
        one = max(p.nbytes for p in parameters)
        assert sum(p.nbytes for p in parameters) <= max(limit, one)
        for p in parameters:
            p.ds_shape, p.data = p.shape, torch.empty(0)
        weights.extend(parameters)

    trunk = load_partitioned_trunk(folder, torch.float32, "eager", partition)
    assert all(any(p is w for w in weights) for p in trunk.parameters())
    assert len(weights) == len(list(trunk.parameters()))  # each once
    expected = load_trunk(folder, torch.float32, "eager")
    shapes = {name: p.shape for name, p in expected.named_parameters()}
    assert {name: full_shape(p) for name, p in trunk.named_parameters()} == shapes
    total = sum(p.nbytes for p in expected.parameters())
    assert largest < total / 3


def test_only_rank_0_reads_weights_and_every_rank_its_buffers(tmp_path, monkeypatch):
    folder = save_tiny(OTHERS[1], tmp_path)
    expected = load_trunk(folder, torch.float32, "eager").state_dict()
    read, slices = [], []

    class Seen:
        def __init__(self, opened):
            self.opened = opened

        def get_slice(self, name):
            slices.append(name)
            return self.opened.get_slice(name)

    real = partitioned.safe_open

    class Open:
        def __init__(self, file, framework):
            self.file = real(file, framework)

        def __enter__(self):
            read.append(1)
            return Seen(self.file.__enter__())

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    monkeypatch.setattr(partitioned, "safe_open", Open)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    shapes = {}

    def partition(parameters):
        assert all(p.device.type == "cpu" for p in parameters)
        shapes.update({id(p): p.shape for p in parameters})

    trunk = load_partitioned_trunk(folder, torch.float32, "eager", partition)
    routers = [name for name, _ in trunk.named_buffers() if name in expected]
    assert len(routers) > 0
    assert len(slices) == len(routers)
    assert all(name.endswith("e_score_correction_bias") for name in slices)
    assert all(torch.equal(trunk.state_dict()[name], expected[name]) for name in routers)
    for name, parameter in trunk.named_parameters():
        assert shapes[id(parameter)] == expected[name].shape


STRETCHED = {"rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}
ROTARY = [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0},
    {"rope_type": "yarn", **STRETCHED},
    {"rope_type": "llama3", **STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {
        "rope_type": "longrope",
        **STRETCHED,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 5.0, 9.0],
    },
    Family("gemma3_text", "Gemma3ForCausalLM", vision=False),  # one a kind of layer
    OTHERS[-1],  # of the text and of the vision tower
]


def rotary(trunk):
    """Of each rotary module its frequencies, and the numbers that it keeps beside them."""
    modules = [m for m in trunk.modules() if "Rotary" in type(m).__name__]
    numbers = [{n: v for n, v in vars(m).items() if isinstance(v, float | str)} for m in modules]
    return [dict(m.named_buffers()) for m in modules], numbers


@pytest.mark.parametrize(
    "case", ROTARY, ids=lambda case: getattr(case, "model_type", 0) or case["rope_type"]
)
def test_rotary_frequencies_are_those_of_float32_however_they_are_loaded(tmp_path, case):
    if isinstance(case, Family):
        folder = save_tiny(case, tmp_path)
    else:
        folder = save_llama(tmp_path)
        config = json.loads((folder / "config.json").read_text())
        changed = config | {"rope_parameters": case, "max_position_embeddings": 256}
        (folder / "config.json").write_text(json.dumps(changed))
    expected, numbers = rotary(load_trunk(folder, torch.float32, "eager"))
    assert any(len(buffers) for buffers in expected)
    cast = load_trunk(folder, torch.bfloat16, "eager")
    cast_parameters(cast, torch.bfloat16)
    shared = load_partitioned_trunk(folder, torch.bfloat16, "eager", lambda parameters: None)
    for trunk in (cast, shared):
        own, own_numbers = rotary(trunk)
        assert own_numbers == numbers
        for buffers, theirs in zip(own, expected, strict=True):
            assert buffers.keys() == theirs.keys()
            assert all(b.dtype == torch.float32 for b in buffers.values())
            assert all(torch.equal(buffers[name], theirs[name]) for name in theirs)


def test_a_tied_weight_may_have_either_name_in_the_file(tmp_path):
    folder = save_llama(tmp_path, tied=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, {"format": "pt"})
    trunk = load_partitioned_trunk(folder, torch.float32, "eager", lambda parameters: None)
    assert trunk.model.embed_tokens.weight is trunk.lm_head.weight
    assert torch.equal(trunk.lm_head.weight, tensors["lm_head.weight"])


def test_wrong_weights_are_refused_before_any_are_read(tmp_path):
    folder = save_llama(tmp_path, tied=False)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if n != "model.norm.weight"}, file)
    with pytest.raises(ValueError, match=r"model\.norm\.weight is absent and must be 32"):
        load_partitioned_trunk(folder, torch.float32, "eager", pytest.fail)
    save_file(tensors, file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(ValueError, match=r"ties lm_head\.weight to model\.embed_tokens"):
        load_partitioned_trunk(folder, torch.float32, "eager", pytest.fail)
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_partitioned_trunk(tmp_path / "nowhere", torch.float32, "eager", pytest.fail)


def test_a_ranks_share_begins_where_the_one_before_ends():
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    weights, first = own_share(parameter)
    weights[4] = -1
    assert (first, parameter[1, 1].item()) == (0, -1)
    freed = []
    parameter.ds_tensor, parameter.ds_zero_partition_rank = torch.zeros(4), 3
    parameter.partition = lambda: freed.append(True)
    weights, first = own_share(parameter)
    assert weights is parameter.ds_tensor
    assert (first, freed) == (12, [True])
