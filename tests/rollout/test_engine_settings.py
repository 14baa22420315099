"""What vLLM is given of an engine's settings."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest

from rollout.engine import EngineFailure, InferenceEngine
from rollout.engine_load import LoadRecorder
from rollout.engine_settings import BACKENDS, EngineSettings, arguments_of, set_environment
from rollout.renderer import FORBIDDEN_BIAS


@pytest.mark.parametrize("channel", BACKENDS)
def test_the_channel_becomes_vllms_backend(channel):
    arguments = arguments_of(EngineSettings("nowhere", channel=channel))
    assert arguments["weight_transfer_config"].backend == BACKENDS[channel]
    assert not arguments["enable_sleep_mode"]
    assert arguments_of(EngineSettings("nowhere", sleep_mode=True))["enable_sleep_mode"]


def test_of_a_folder_that_holds_a_model_twice_the_checked_files_are_read(tmp_path):
    """Mistral's releases hold theirs too, which vLLM prefers."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    for name in ("consolidated.safetensors", "model-00001-of-00001.safetensors"):
        (tmp_path / name).touch()
    weights = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(weights))
    arguments = arguments_of(EngineSettings(str(tmp_path)))
    loader = get_model_loader(LoadConfig(load_format=arguments["load_format"]))
    _, files, safe, _ = loader._prepare_weights(str(tmp_path), None, None, False, None)
    assert (files, safe) == ([str(tmp_path / "model-00001-of-00001.safetensors")], True)
    assert [arguments[key] for key in ("config_format", "tokenizer_mode")] == ["hf", "hf"]


@pytest.mark.parametrize(
    ("sequences", "context", "tokens"),
    [(32, 64, 2048), (1, 64, 64), (64, 1024, 8192), (1, 16_384, 16_384), (128, 64, 8192)],
)
def test_no_more_tokens_are_computed_at_once_than_the_sequences_hold(sequences, context, tokens):
    """At a GPU's start vLLM's trial gives each sequence its part, whatever the context."""
    settings = EngineSettings("x", max_sequences=sequences, context_tokens=context)
    assert arguments_of(settings)["max_num_batched_tokens"] == tokens
    assert context <= tokens <= sequences * context


def test_an_engine_that_gets_its_weights_reads_none():
    read, waiting = (arguments_of(EngineSettings("x", reads_weights=r)) for r in (True, False))
    assert (read["load_format"], waiting["load_format"]) == ("hf", "dummy")
    assert {k for k in read if read[k] != waiting[k]} - {"weight_transfer_config"} == {
        "load_format"
    }


def test_vllm_knows_the_backends():
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    import rollout.weight_receiver  # noqa: F401 - registers ours

    assert set(BACKENDS.values()) <= set(WeightTransferEngineFactory._registry)


def test_only_ipc_lets_vllm_pickle_between_its_processes(monkeypatch):
    key = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    monkeypatch.setenv(key, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_environment(EngineSettings("nowhere", channel="nccl"))
    assert os.environ[key] == "0"
    set_environment(EngineSettings("nowhere", channel="ipc"))
    assert os.environ[key] == "1"


@pytest.mark.parametrize("own", [None, "0"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_WAIT_POLICY", "PASSIVE"), ("TORCH_COMPILE_DISABLE", "1")],
    ids=["threads do not spin", "nothing is compiled at the first request"],
)
def test_an_engine_on_a_cpu_has_what_suits_it_unless_the_user_says(monkeypatch, name, value, own):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(name, "")  # put back after the test, whatever it was
    os.environ.pop(name)
    if own:
        os.environ[name] = own
    set_environment(EngineSettings("nowhere", threads=2))
    assert os.environ[name] == (own or value)


def test_a_gpus_engine_compiles(monkeypatch):
    from vllm.platforms import current_platform

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "")
    os.environ.pop("TORCH_COMPILE_DISABLE")
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    set_environment(EngineSettings("nowhere"))
    assert "TORCH_COMPILE_DISABLE" not in os.environ


def test_a_cpu_engine_cannot_sleep(tiny_model):
    settings = replace(EngineSettings(tiny_model), sleep_mode=True)
    with pytest.raises(EngineFailure, match="Sleep mode is not supported on current platform"):
        asyncio.run(InferenceEngine.start(settings))


def test_forbidden_tokens_have_the_learners_bias():
    settings = EngineSettings("nowhere", forbidden=(3, 9), stop_ids=(2,))
    parameters = InferenceEngine(settings, None, LoadRecorder())._parameters(5, 0.5)
    assert parameters.logit_bias == {3: FORBIDDEN_BIAS, 9: FORBIDDEN_BIAS}
    assert (parameters.max_tokens, parameters.temperature) == (5, 0.5)
    assert parameters.stop_token_ids == [2]
    assert parameters.ignore_eos


def test_requests_share_the_parts_of_their_parameters_and_have_a_seed_each():
    settings = EngineSettings("nowhere", forbidden=(3,), stop_ids=(2,))
    engine = InferenceEngine(settings, None, LoadRecorder())
    shared = engine._parameters(5, 0.5)
    assert shared is engine._parameters(5, 0.5)
    one = shared.clone()  # as vLLM does with those of a request
    one.seed = 7
    assert one.logit_bias is shared.logit_bias
    assert shared.seed is None
