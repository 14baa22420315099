"""An engine without vLLM's processes: its arguments, the order of its steps, its load."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rollout.bucket import pack
from rollout.engine import (
    BACKENDS,
    EngineFailure,
    EngineSettings,
    InferenceEngine,
    RequestRefused,
    _arguments,
    _environment,
)
from rollout.engine_load import LoadRecorder
from rollout.renderer import FORBIDDEN_BIAS


class RecordingLLM:
    """Keeps the calls that vLLM's AsyncLLM would get."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        async def call(*args, **keywords):
            self.calls.append((name, *args, *keywords.values()))

        return call


@pytest.fixture
def engine():
    return InferenceEngine(
        EngineSettings("nowhere", sleep_mode=True), RecordingLLM(), LoadRecorder()
    )


def names(engine):
    return [name for name, *_ in engine._llm.calls]


def test_an_engine_that_plays_pauses_for_new_weights(engine):
    async def work():
        await engine.start_weight_update()
        await engine.update_weights({"names": []})
        await engine.finish_weight_update(3)

    asyncio.run(work())
    assert names(engine) == [
        "pause_generation",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "resume_generation",
    ]
    assert engine._llm.calls[0] == ("pause_generation", "keep", True)  # caches of old weights go
    assert engine._llm.calls[3] == ("finish_weight_update", "3")
    assert engine.version == 3


def test_an_engine_that_sleeps_wakes_in_two_steps(engine):
    """Weights before the transfer, the KV cache after it: the learner holds memory till then."""

    async def work():
        await engine.sleep()
        await engine.sleep()  # once is enough
        await engine.start_weight_update()
        await engine.update_weights({"names": []})
        await engine.finish_weight_update(4)
        await engine.start_weight_update()

    asyncio.run(work())
    assert engine._llm.calls[0] == ("sleep", 2, "wait")
    assert engine._llm.calls[1] == ("wake_up", ["weights"])
    assert names(engine)[2:5] == ["start_weight_update", "update_weights", "finish_weight_update"]
    assert engine._llm.calls[5] == ("wake_up", ["kv_cache"])
    assert names(engine)[6:] == ["pause_generation", "start_weight_update"]  # awake again


def test_what_it_does_is_known_at_each_step(engine):
    class WatchingLLM:
        def __getattr__(self, name):
            async def call(*args, **keywords):
                seen.append((name, engine._load.state))

            return call

    async def work():
        for before in (None, engine.sleep):
            if before:
                await before()
            await engine.start_weight_update()
            await engine.update_weights({"names": []})
            await engine.finish_weight_update(3)
            seen.append(("played", engine._load.state))

    seen, engine._llm = [], WatchingLLM()
    asyncio.run(work())
    load = [
        ("start_weight_update", "loading"),
        ("update_weights", "loading"),
        ("finish_weight_update", "loading"),
    ]
    awake = [("pause_generation", "paused"), *load, ("resume_generation", "loading")]
    asleep = [("sleep", "idle"), ("wake_up", "asleep"), *load, ("wake_up", "loading")]
    assert seen == [*awake, ("played", "idle"), *asleep, ("played", "idle")]


def test_it_is_busy_with_a_request_until_that_is_refused(engine):
    async def generate(*given):
        seen.append(engine._load.state)
        raise ValueError("too long")
        yield

    seen = []
    engine._llm = SimpleNamespace(generate=generate, errored=False)
    with pytest.raises(RequestRefused, match="too long"):
        asyncio.run(engine._request("prompt", None))
    assert (seen, engine._load.state) == (["busy"], "idle")


def test_a_sleeping_engine_does_not_play(engine):
    async def work():
        await engine.sleep()
        await engine.generate([1, 2], max_tokens=1, temperature=1.0)

    with pytest.raises(AssertionError, match="sleeps until it gets weights"):
        asyncio.run(work())


def test_a_sleeping_engine_gets_buckets_through_the_object_store_too(engine):
    import torch

    async def work():
        await engine.sleep()
        await engine.receive(5, [pack([("a", torch.zeros(3))])])

    asyncio.run(work())
    assert names(engine) == [
        "sleep",
        "wake_up",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "wake_up",
    ]


@pytest.mark.parametrize("channel", BACKENDS)
def test_the_channel_becomes_vllms_backend(channel):
    arguments = _arguments(EngineSettings("nowhere", channel=channel))
    assert arguments["weight_transfer_config"].backend == BACKENDS[channel]
    assert not arguments["enable_sleep_mode"]
    assert _arguments(EngineSettings("nowhere", sleep_mode=True))["enable_sleep_mode"]


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


def test_a_cpu_engine_cannot_sleep(tiny_model):
    settings = replace(EngineSettings(tiny_model), sleep_mode=True)
    with pytest.raises(EngineFailure, match="Sleep mode is not supported on current platform"):
        asyncio.run(InferenceEngine.start(settings))


def test_a_completion_has_a_version_for_each_token(engine):
    span = SimpleNamespace(version="7", start=1, end=3)
    start = SimpleNamespace(version="start", start=0, end=1)  # vLLM's own name of the first weights
    answer = SimpleNamespace(
        token_ids=[5, 6, 7, 8],
        logprobs=SimpleNamespace(logprobs=[-1.0, -2.0, -3.0, -4.0, -9.0]),
        weight_versions=[start, span],
        finish_reason="length",
    )
    engine.version = 8
    output = SimpleNamespace(outputs=[answer], prompt_token_ids=[1, 2])
    completion = engine._completion(output)
    assert completion.versions.tolist() == [8, 7, 7, 8]
    assert list(completion.logprobs) == [-1.0, -2.0, -3.0, -4.0]
    assert completion.prompt_ids == [1, 2]
    assert not completion.stopped
    answer.finish_reason = "stop"
    assert engine._completion(output).stopped


def test_forbidden_tokens_have_the_learners_bias():
    settings = EngineSettings("nowhere", forbidden=(3, 9), stop_ids=(2,))
    parameters = InferenceEngine(settings, RecordingLLM(), LoadRecorder())._parameters(5, 0.5)
    assert parameters.logit_bias == {3: FORBIDDEN_BIAS, 9: FORBIDDEN_BIAS}
    assert (parameters.max_tokens, parameters.temperature) == (5, 0.5)
    assert parameters.stop_token_ids == [2]
    assert parameters.ignore_eos
