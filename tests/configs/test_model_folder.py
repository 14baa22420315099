"""Model folders: sizes without loading weights, and one sentence for each way to be wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from configs.load import ConfigError
from configs.model_folder import (
    READ_AS_JSON,
    check_model,
    check_tokenizer,
    find_model,
    weights_size,
    write_index,
)


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def configure(model, **changes):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def refused(model, *words):
    with pytest.raises(ConfigError) as error:
        check_model(model)
    for word in (f"model.path={model}", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes(model):
    config = json.loads((model / "config.json").read_text())
    size = check_model(model)
    assert (size.layers, size.hidden, size.positions) == (2, 128, 1024)
    assert size.vocabulary == config["vocab_size"]
    assert size.parameters.keys() == {"embedding", "layers", "head"}
    assert size.parameters["embedding"] == size.parameters["head"] == size.vocabulary * 128


def test_positions_of_longrope_are_those_of_its_short_factors(model):
    """As demonstrations are bounded by: a longer one changes what stands in its microbatch."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 256}
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    configure(model, rope_parameters=rope | factors)
    assert check_model(model).positions == 256
    configure(model, rope_parameters=rope | {"rope_type": "yarn", "factor": 4.0})
    assert check_model(model).positions == 1024


def test_sizes_of_the_weight_files_alone(model):
    """Of a folder whose config.json transformers has not read."""
    size = check_model(model)
    (model / "config.json").unlink()
    found = weights_size(str(model))
    assert found == replace(size, layers=0, hidden=0, vocabulary=0, positions=None)
    assert found.matrices
    (model / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=f"^model.path={model}: model.safetensors is damaged: "):
        weights_size(str(model))


def test_shards_count_once_and_the_value_head_does_not(model):
    size = check_model(model)
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    shards = {name: f"model-{1 + (i % 2):05d}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({n: tensors[n] for n in names if shards[n] == shard}, model / shard)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (model / "model.safetensors").unlink()
    save_file(tensors, model / "value_head.safetensors")
    assert check_model(model) == size
    (model / "model-00002-of-00002.safetensors").unlink()
    refused(model, "holds no model-00002-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text("{}")
    refused(model, "model.safetensors.index.json cannot be read")


def test_an_index_names_the_model_and_not_the_value_head(model):
    size = check_model(model)
    tensors = load_file(model / "model.safetensors")
    save_file(tensors, model / "value_head.safetensors")
    write_index(model)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys(tensors, "model.safetensors")
    assert check_model(model) == size


def test_weights_that_vllm_would_load_besides_are_refused_without_an_index(model):
    """It takes every *.safetensors that no index leaves out."""
    tensors = load_file(model / "model.safetensors")
    save_file({"ema": tensors.popitem()[1]}, model / "ema.safetensors")
    refused(model, "holds ema.safetensors beside model.safetensors and no model.safetensors.index")
    write_index(model)
    check_model(model)


def test_folders_that_hold_no_policy(model):
    configure(model, architectures=["BertModel"])
    refused(model, "BertModel", "no causal LM")
    configure(model, architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    refused(model, "T5ForConditionalGeneration", "no causal LM")
    configure(model, architectures=None)
    refused(model, "of no named kind")


def test_every_name_that_transformers_has_for_a_causal_model_will_do(model):
    for architecture in ("GPT2LMHeadModel", "Qwen2VLForConditionalGeneration"):
        configure(model, architectures=[architecture])
        assert check_model(model).layers == 2


def test_code_of_a_folder_is_refused_in_one_sentence(model):
    configure(model, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (model / "own.py").write_text("raise SystemExit")
    refused(model, "config.json cannot be used: it needs Python code of its own (auto_map in its")


def test_quantized_weights_are_refused_by_name(model):
    configure(model, quantization_config={"quant_method": "mxfp4"})
    refused(model, "LlamaForCausalLM with weights quantized by mxfp4", "float32 or bfloat16")


def test_weights_of_another_name_are_refused(model):
    configure(model, transformers_weights="other.safetensors")
    refused(model, "transformers_weights=other.safetensors, which vLLM does not")


def test_a_folder_without_a_tokenizer_says_so(model):
    check_tokenizer(model)
    (model / "tokenizer.json").rename(model / "vocab.json")  # the older form of one
    check_tokenizer(model)
    (model / "vocab.json").unlink()
    with pytest.raises(ConfigError, match=f"{model}: holds no tokenizer, neither tokenizer.json"):
        check_tokenizer(model)
    check_model(model)  # whose sizes need none
    (model / "tokenizer.model").touch()
    check_tokenizer(model)


@pytest.mark.parametrize("name", READ_AS_JSON)
def test_a_damaged_file_beside_the_weights_is_named(model, name):
    (model / name).write_text("{}")
    check_tokenizer(model)
    for text, words in (
        ('{"a": ', "cannot be read as JSON: Expecting value"),
        ("[]", "holds a list; it must hold keys and values"),
        ("\udcff", "cannot be read as JSON"),
    ):
        (model / name).write_text(text, errors="surrogateescape")
        with pytest.raises(ConfigError, match=f"^model.path={model}: {name} {words}"):
            check_tokenizer(model)


def test_damaged_files(model):
    (model / "model.safetensors").write_bytes(b"abc")
    refused(model, "model.safetensors is damaged")
    (model / "model.safetensors").unlink()
    refused(model, "holds no model.safetensors")
    for text in ("[", "[]", '{"model_type": "nope"}', "{}"):
        (model / "config.json").write_text(text)
        refused(model)
    (model / "config.json").unlink()
    refused(model, "no config.json")
    shutil.rmtree(model)
    refused(model, "no such folder")


def test_a_name_that_no_hub_gives(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="there is no such folder"):
        find_model("nobody/nothing")


def test_a_name_on_the_hub_is_its_download(monkeypatch, tiny_model):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: tiny_model)
    assert check_model("somebody/something").parameters == check_model(tiny_model).parameters


def test_weights_that_transformers_would_not_load_as_they_are_here(model):
    """An index beside a file that it does not name; adapters; an index of no names."""
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    with pytest.raises(ConfigError, match=r"model.safetensors and an .* does not name it"):
        check_model(model)
    index.write_text(json.dumps({"weight_map": {"a": 1, "b": "c"}}))
    with pytest.raises(ConfigError, match=r"index\.json cannot be read"):
        check_model(model)
    index.unlink()
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds adapters"):
        check_model(model)


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "is a folder"), ("model.safetensors", "model.safetensors is a file")],
)
def test_what_this_user_may_not_read_is_named(model, monkeypatch, name, words):
    closed = model / name
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed)
    refused(model, f"{words} that this user may not read")


def test_a_path_that_the_system_refuses(tmp_path):
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")
