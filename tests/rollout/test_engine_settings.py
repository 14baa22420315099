"""What vLLM is given of an engine's settings."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest

from rollout.engine import EngineFailure, InferenceEngine, _arguments, _environment
from rollout.engine_load import LoadRecorder
from rollout.engine_settings import BACKENDS, EngineSettings
from rollout.renderer import FORBIDDEN_BIAS


@pytest.mark.parametrize("channel", BACKENDS)
def test_the_channel_becomes_vllms_backend(channel):
    arguments = _arguments(EngineSettings("nowhere", channel=channel))
    assert arguments["weight_transfer_config"].backend == BACKENDS[channel]
    assert not arguments["enable_sleep_mode"]
    assert _arguments(EngineSettings("nowhere", sleep_mode=True))["enable_sleep_mode"]


def test_of_a_folder_that_holds_a_model_twice_the_checked_files_are_read(tmp_path):
    """Mistral's releases hold theirs too, which vLLM prefers."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    for name in ("consolidated.safetensors", "model-00001-of-00001.safetensors"):
        (tmp_path / name).touch()
    weights = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(weights))
    arguments = _arguments(EngineSettings(str(tmp_path)))
    loader = get_model_loader(LoadConfig(load_format=arguments["load_format"]))
    _, files, safe, _ = loader._prepare_weights(str(tmp_path), None, None, False, None)
    assert (files, safe) == ([str(tmp_path / "model-00001-of-00001.safetensors")], True)
    assert [arguments[key] for key in ("config_format", "tokenizer_mode")] == ["hf", "hf"]


def test_an_engine_that_gets_its_weights_reads_none():
    read, waiting = (_arguments(EngineSettings("x", reads_weights=r)) for r in (True, False))
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
    _environment(EngineSettings("nowhere", channel="nccl"))
    assert os.environ[key] == "0"
    _environment(EngineSettings("nowhere", channel="ipc"))
    assert os.environ[key] == "1"


@pytest.mark.parametrize(("own", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_an_engine_do_not_spin_unless_the_user_has_them_spin(monkeypatch, own, policy):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # put back after the test, whatever it was
    os.environ.pop("OMP_WAIT_POLICY")
    if own:
        os.environ["OMP_WAIT_POLICY"] = own
    _environment(EngineSettings("nowhere", threads=2))
    assert os.environ["OMP_WAIT_POLICY"] == policy


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
