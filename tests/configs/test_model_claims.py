"""What a model folder's own files say: refused without transformers, as transformers would."""

from __future__ import annotations

import json

import pytest

from configs.load import ConfigError
from configs.model_claims import check_claims, check_class
from configs.model_folder import check_model, weight_shapes
from tests.support.families import Family, families, save_tiny
from tests.support.learner import save_llama
from tests.support.real_templates import FOLDER

TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.x %}{% break %}{% endif %}{% endfor %}"
FEW = ("gpt2", "gpt_neox", "qwen2_vl", "mamba", "gpt_oss", "lfm2")


@pytest.fixture
def model(tmp_path):
    folder = save_llama(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def configure(folder, **changed):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def claims(folder, tokens=8):
    check_claims(folder, f"model.path={folder}", weight_shapes(folder, ""), tokens)


def refused(folder, sentence, tokens=8):
    with pytest.raises(ConfigError) as error:
        claims(folder, tokens)
    assert str(error.value).startswith(f"model.path={folder}: {sentence}"), error.value


def test_what_transformers_takes_is_let_through(model):
    claims(model)


@pytest.mark.parametrize("name", FEW)
def test_other_kinds_of_models_are_let_through(name, tmp_path):
    family = next(family for family in families() if family.model_type == name)
    allowed(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", families(), ids=lambda family: family.architecture)
def test_every_family_is_let_through(family, tmp_path):
    try:
        save_tiny(family, tmp_path)
    except Exception as error:  # noqa: BLE001 - the table says why
        pytest.skip(f"cannot be made tiny: {error}")
    allowed(family, tmp_path)


def allowed(family: Family, folder):
    save_tiny(family, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    claims(folder)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.jinja")), ids=lambda file: file.stem)
def test_every_real_template_can_be_read(file, model):
    (model / "chat_template.jinja").write_text(file.read_text())
    claims(model)


def test_a_model_that_transformers_lacks(model):
    configure(model, model_type="lama")
    refused(model, "config.json cannot be used: its model_type is 'lama', and the installed")
    with pytest.raises(ConfigError, match=r"config\.json cannot be used"):
        check_model(model)
    configure(model, auto_map={"AutoConfig": "own.Config"})
    claims(model)  # code of its own is refused by name elsewhere


def test_a_model_that_is_no_causal_one(model):
    configure(model, model_type="bert", architectures=["BertModel"])
    refused(model, "is BertModel, no causal LM")
    configure(model, architectures=None)
    refused(model, "is of no named kind, no causal LM")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("PhiForCausalLM", r"PhiForCausalLM, .* the output layer's bias anew"),
        ("Cosmos3EdgeForConditionalGeneration", r"\w+, which cannot be trained: its class"),
    ],
)
def test_classes_that_cannot_be_trained_or_synced(model, name, sentence):
    check_class(model, "")
    configure(model, architectures=[name])
    with pytest.raises(ConfigError, match=f"^it: is {sentence}"):
        check_class(model, "it")


def test_positions_that_are_too_few(model):
    configure(model, max_position_embeddings=31)
    with pytest.raises(
        ConfigError, match=rf"^rollout\.context_tokens=32: the model at {model} knows"
    ):
        claims(model, tokens=32)
    claims(model, tokens=31)


LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
LONGROPE = [
    {"rope_scaling": LONG | {"type": "su"}, "original_max_position_embeddings": 24},
    {"rope_scaling": LONG | {"type": "longrope"}, "original_max_position_embeddings": 24},
    {
        "rope_parameters": LONG
        | {"rope_type": "longrope", "original_max_position_embeddings": 24, "rope_theta": 1e4}
    },
    {"rope_parameters": {"a": None, "full_attention": LONG | {"rope_type": "longrope"}}}
    | {"original_max_position_embeddings": 24},
]


@pytest.mark.parametrize("rope", LONGROPE, ids=["su", "old", "new", "by layer"])
def test_a_context_in_which_longrope_changes_its_factors(model, rope):
    configure(model, max_position_embeddings=64, **rope)
    claims(model, tokens=24)
    with pytest.raises(ConfigError, match=r"^rollout\.context_tokens=25: .* longrope, .*=24, "):
        claims(model, tokens=25)


def test_other_rotary_positions_have_all_of_theirs(model):
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 24}
    for given in (rope, None, "default"):
        configure(model, max_position_embeddings=64, rope_parameters=given)
        claims(model, tokens=64)


def test_weights_of_other_sizes(model):
    configure(model, vocab_size=47)
    words = "the weights are not those of its config.json: model.embed_tokens.weight is 48 x 32"
    refused(model, f"{words} and must be 47 x 32")
    configure(model, vocab_size=48, num_hidden_layers=3)
    refused(model, words.partition(": model")[0] + ": they are of 2 layers, and num_hidden_layers")
    configure(model, num_hidden_layers=1)
    claims(model)  # more than one more layer predicts the token after next


@pytest.mark.parametrize("part", ["text_config", "thinker_config"])
def test_sizes_of_a_part_are_not_the_whole_models(model, part):
    configure(model, vocab_size=1, max_position_embeddings=1, **{part: {}})
    claims(model)


def test_a_tokenizer_without_a_chat_template(model):
    for given in (None, "", [{"name": "rag", "template": TEMPLATE}], {"tool_use": TEMPLATE}):
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
        refused(model, "its tokenizer has no chat template; a policy plays in messages")
    (model / "tokenizer_config.json").unlink()
    refused(model, "its tokenizer has no chat template")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        for given in (TEMPLATE, {"default": TEMPLATE}, [{"name": "default", "template": TEMPLATE}]):
            (model / name).write_text(json.dumps({"chat_template": given}))
            claims(model)
        (model / name).unlink()


def test_a_chat_template_that_cannot_be_read(model):
    broken = "{% for m in messages %}{{ m.content }}"
    (model / "chat_template.jinja").write_text(broken)
    refused(model, "its chat template cannot be read: Unexpected end of template")
    (model / "chat_template.jinja").write_text("{% generation %}{% endgeneration %}")
    claims(model)
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": broken}))
    claims(model)  # the file of its own counts


def test_mistrals_own_tokenizer_has_its_template_inside(model):
    (model / "tokenizer_config.json").unlink()
    (model / "tekken.json").write_text("{}")
    claims(model)
