"""Which model fits where: each row of the documentation is what the memory account says."""

import re

import pytest

from benchmarks import model_sizes
from cluster.placement import learner_memory
from cluster.placement.memory import memory_bytes, policy_size
from cluster.placement.rank import Rank
from configs.load import load
from configs.model_folder import size_of
from configs.paths import ROOT

GIB = 2**30
DOCS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("cluster", "models")}
TABLE = re.findall(r"^\| (Qwen2\.5-(\S+) .*) \|$", DOCS["cluster"], re.M)
SMOLLM2 = (576, 1536, 30, 9, 3, 49_152)  # width, feed-forward, layers, heads, key-value, vocabulary


def test_parameters_are_those_of_the_shape():
    small = model_sizes.size(model_sizes.SHAPES["0.5B"])
    assert sum(small.parameters.values()) == 494_147_456  # the published 494 M, vocabulary rounded
    assert (small.layers, small.hidden) == (24, 896)


@pytest.mark.parametrize("tied", [True, False])
def test_names_and_shapes_are_those_of_transformers(tied, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, Qwen2Config

    monkeypatch.setattr(model_sizes, "VOCABULARY", 100)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        vocab_size=100,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = ((name, tuple(weight.shape)) for name, weight in model.named_parameters())
    assert model_sizes.size((32, 48, 2, 4, 2, tied)) == size_of(shapes, 2, 32, 100, None)


def test_larger_models_want_more_and_larger_gpus_fewer():
    small, large = (model_sizes.size(model_sizes.SHAPES[name]) for name in ("0.5B", "7B"))
    assert model_sizes.least(small, 24.0)[:2] == (1, 1)
    assert model_sizes.least(large, 24.0) > model_sizes.least(large, 80.0)
    assert model_sizes.least(large, 1.0).ranks == 0  # not even on 64
    held = ("rollout.gpu_memory=0.5",)  # 12 GiB, of which an engine of 7B takes 9.9 on each of two
    assert model_sizes.least(large, 24.0, held).parallel == 2
    assert model_sizes.least(large, 24.0, ("rollout.gpu_memory=0.4",)).parallel == 4
    full = (
        "learner.zero_stage=0",
        "model.dtype=float32",
    )  # every rank holds everything: more ranks do not help
    assert model_sizes.least(large, 80.0, full).ranks == 0


def test_every_model_has_a_row_and_no_other_has():
    assert [name for _, name in TABLE] == list(model_sizes.SHAPES)


@pytest.fixture(scope="module")
def rows():
    return {row["name"].split(":")[0]: row for row in model_sizes.rows()}


@pytest.mark.parametrize(("row", "name"), TABLE, ids=[name for _, name in TABLE])
def test_a_row_is_what_the_account_says(row, name, rows):
    assert model_sizes.table_row(rows[f"Qwen2.5-{name}"]) == f"| {row} |"


def test_the_head_and_the_order_of_the_table_too(rows):
    assert model_sizes.table(list(rows.values())) in DOCS["cluster"]


def test_the_sentences_about_a_7b_policy(rows):
    found = rows["Qwen2.5-7B"]["fits"]["80"]
    assert f"a 7B policy fits {found.ranks} + {found.parallel} GPUs of 80 GiB" in DOCS["cluster"]
    model = model_sizes.size(model_sizes.SHAPES["7B"])
    run = Rank(load("gp_l", list(model_sizes.KEYS)), model)
    moved = learner_memory.optimizer(run) + learner_memory.master_weights(run)
    moved += learner_memory.gradients(run)
    each = sum(model.parameters.values())
    assert (moved // each, (moved + learner_memory.weights(run)) // each) == (16, 18)
    assert "(16 of the 18 bytes per" in DOCS["cluster"]


def smollm2(microbatch_tokens):
    """GiB of the shipped configuration, by the account."""
    hidden, mlp, layers, heads, kv, vocabulary = SMOLLM2
    narrow = hidden // heads * kv
    layer = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"},
        **{f"self_attn.{name}_proj.weight": (narrow, hidden) for name in "kv"},
        **{f"mlp.{name}_proj.weight": (mlp, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, mlp),
        **{f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")},
    }
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for n in range(layers):
        tensors |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    size = size_of(tensors.items(), layers, hidden, vocabulary, 8192)
    cfg = load("smollm2", [f"learner.microbatch_tokens={microbatch_tokens}"])
    return sum(memory_bytes(cfg, policy_size(cfg, size, 0)).values()) / GIB


def test_what_is_said_of_smollm2():
    large, small = smollm2(8192), smollm2(1024)
    assert f"asks for {large:.1f} GiB" in DOCS["models"].replace("\n", " ")
    assert f"with `learner.microbatch_tokens=1024` for {small:.1f}" in DOCS["models"].replace(
        "\n", " "
    )
    assert f"SmolLM2-135M takes {small:.0f} GiB" in DOCS["cluster"]
