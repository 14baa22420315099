"""Weight files against config.json, by names and shapes: every family's own pass, others do not."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.model_folder import weight_shapes
from learner.checkpoint_match import check_tensors, check_tied
from learner.trunk import empty_trunk
from tests.support.families import Family, save_tiny
from tests.support.learner import save_llama

FEW = [
    Family("gpt2", "GPT2LMHeadModel", vision=False),  # tied
    Family("glm4_moe", "Glm4MoeForCausalLM", vision=False),  # merged experts, routers' buffers
    Family("gpt_oss", "GptOssForCausalLM", vision=False),
    Family("mamba", "MambaForCausalLM", vision=False),
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", vision=True),  # other names when saved
    Family("idefics3", "Idefics3ForConditionalGeneration", vision=True),
]


def check(folder, shapes=None):
    check_tensors(empty_trunk(folder), shapes or weight_shapes(folder, ""))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"), tied=False)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    family = Family("mixtral", "MixtralForCausalLM", vision=False)
    return save_tiny(family, tmp_path_factory.mktemp("mixtral"))


@pytest.mark.parametrize("family", FEW, ids=lambda family: family.model_type)
def test_a_saved_model_is_its_own(family, tmp_path):
    check(save_tiny(family, tmp_path))


def test_a_folder_that_transformers_would_not_find_its_weights_in(tmp_path):
    """Of ShieldGemma2's language model it writes names that it does not read."""
    save_tiny(Family("shieldgemma2", "Gemma3ForConditionalGeneration", vision=True), tmp_path)
    refused(tmp_path, None, "the Gemma3ForConditionalGeneration in config.json: lm_head.weight is")


def refused(folder, shapes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        check(folder, shapes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_extra_layer_is_named(llama):
    shapes = weight_shapes(llama, "")
    layer = [name for name in shapes if ".layers.1." in name]
    extra = {name.replace(".1.", ".2."): shapes[name] for name in layer}
    refused(
        llama,
        shapes | extra,
        "the weights are not those of the LlamaForCausalLM in config.json: "
        "model.layers.2.input_layernorm.weight, 32, is none of its tensors; "
        "model.layers.2.mlp.down_proj.weight, 32 x 64, is none of its tensors; "
        "model.layers.2.mlp.gate_proj.weight, 64 x 32, is none of its tensors; "
        f"{len(layer)} tensors differ",
    )


def test_a_layer_less_is_named(llama):
    shapes = {name: shape for name, shape in weight_shapes(llama, "").items() if ".1." not in name}
    refused(llama, shapes, "model.layers.1.mlp.down_proj.weight is absent and must be 32 x 64; ")


def test_another_vocabulary_or_width_is_named_with_both_shapes(llama):
    shapes = weight_shapes(llama, "")
    fewer = {"model.embed_tokens.weight": (40, 32), "lm_head.weight": (40, 32)}
    both = (
        "config.json: lm_head.weight is 40 x 32 and must be 48 x 32; "
        "model.embed_tokens.weight is 40 x 32 and must be 48 x 32"
    )
    assert refused(llama, shapes | fewer, both).endswith(both)
    three = refused(llama, shapes | fewer | {"model.norm.weight": (31,)}, both)
    assert three.endswith("; model.norm.weight is 31 and must be 32")
    wider = {name: tuple(2 * size for size in shape) for name, shape in shapes.items()}
    refused(llama, wider, f"; {len(shapes)} tensors differ")
    refused(llama, shapes | {"model.norm.weight": ()}, "model.norm.weight is one number and must")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_output_layer_may_be_absent_where_it_is_the_embedding(tmp_path, tied):
    folder = save_llama(tmp_path, tied=tied)
    shapes = weight_shapes(folder, "")
    head = {"lm_head.weight": (48, 32)}
    check(folder, shapes | head)  # written though it is tied, as some are
    without = {name: shape for name, shape in shapes.items() if name not in head}
    if tied:
        check(folder, without)
    else:
        refused(folder, without, "config.json: lm_head.weight is absent and must be 48 x 32")
    unbedded = {n: s for n, s in without.items() if n != "model.embed_tokens.weight"}
    refused(folder, unbedded, "model.embed_tokens.weight is absent and must be 48 x 32")


def test_an_output_layer_of_its_own_is_no_tied_one(tmp_path):
    folder = save_llama(tmp_path, tied=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    for head in (embedding, embedding.bfloat16().float(), None):
        own = {} if head is None else {"lm_head.weight": head.clone()}
        save_file({"model.embed_tokens.weight": embedding} | own, file, {"format": "pt"})
        if head is None or torch.equal(head, embedding):
            check_tied(empty_trunk(folder), [file])
            continue
        with pytest.raises(ValueError, match=r"ties lm_head\.weight to model\.embed_tokens"):
            check_tied(empty_trunk(folder), [file])
    untied = save_llama(tmp_path / "untied", tied=False)
    check_tied(empty_trunk(untied), [untied / "model.safetensors"])


def test_names_of_the_file_are_found_under_the_models(tmp_path):
    """Qwen2-VL's files say model.embed_tokens where the class says model.language_model."""
    save_tiny(FEW[4], tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tied = json.loads((tmp_path / "config.json").read_text())
    tied |= {"tie_word_embeddings": True}
    tied["text_config"] |= {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(tied))
    save_file(tensors | {"lm_head.weight": 1 + tensors[name]}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"ties lm_head\.weight to model\.language_model"):
        check_tied(empty_trunk(tmp_path), [file])
    save_file(tensors | {"lm_head.weight": tensors[name].clone()}, file, {"format": "pt"})
    check_tied(empty_trunk(tmp_path), [file])


def test_experts_that_do_not_fit_together_are_named(mixtral):
    shapes = weight_shapes(mixtral, "")
    expert = "model.layers.1.block_sparse_moe.experts.3"
    without = {name: shape for name, shape in shapes.items() if not name.startswith(expert)}
    refused(mixtral, without, "model.layers.1.mlp.experts.down_proj is 3 x 64 x 64 and must be 4 x")
    other = shapes | {f"{expert}.w2.weight": (64, 32)}
    refused(mixtral, other, "the parts of model.layers.1.mlp.experts.down_proj do not make 4 x 64")


def test_what_transformers_leaves_out_is_no_difference(llama):
    """Old files hold the rotary frequencies of every layer."""
    check(llama, weight_shapes(llama, "") | {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)})
