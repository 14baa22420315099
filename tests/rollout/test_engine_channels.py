"""An engine without vLLM's processes: the order of its steps, its load."""

from __future__ import annotations

import asyncio
import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rollout import bucket_file
from rollout.bucket import pack
from rollout.engine import EngineFailure, InferenceEngine, RequestRefused
from rollout.engine_load import LoadRecorder
from rollout.engine_settings import EngineSettings


class RecordingLLM:
    """Keeps the calls that vLLM's AsyncLLM would get, and what each load finds in shared memory.

    fails: names of calls that fail, each with the number of the time at which it does.
    """

    errored = False

    def __init__(self, *fails):
        self.calls, self.fails, self.loaded = [], fails, []

    def __getattr__(self, name):
        async def call(*args, **keywords):
            time = [called for called, *_ in self.calls].count(name)
            self.calls.append((name, *args, *keywords.values()))
            if (name, time) in self.fails:
                raise RuntimeError("no memory left")

        return call

    async def update_weights(self, request):
        info = request.update_info
        if "path" in info:
            memory = np.memmap(info["path"], np.uint8, mode="r", offset=info["offset"])
            self.loaded += [memory[:12].view(np.float32).tolist()]
        await self.__getattr__("update_weights")(request)

    async def generate(self, prompt, parameters, number):
        answer = SimpleNamespace(
            token_ids=[5],
            logprobs=SimpleNamespace(logprobs=[-1.0]),
            weight_versions=None,
            finish_reason="length",
        )
        yield SimpleNamespace(outputs=[answer], prompt_token_ids=[1])


def failing(*fails):
    """An engine that plays with version 4, and whose vLLM fails at these calls."""
    engine = InferenceEngine(EngineSettings("nowhere"), RecordingLLM(*fails), LoadRecorder())
    engine.version = 4
    return engine


@pytest.fixture
def engine():
    return InferenceEngine(
        EngineSettings("nowhere", sleep_mode=True), RecordingLLM(), LoadRecorder()
    )


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch, tmp_path):
    """A folder of this test's own: engines of other tests have their files in the real one."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(bucket_file, "_shared_memory", lambda: str(folder))
    return folder


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


@pytest.mark.parametrize("pictures", [True, False])
def test_an_answer_that_vllm_could_not_give_is_none(engine, pictures):
    """Its request ends with a reason; one with pictures, whose cache was missed, comes again."""

    async def generate(*given):
        asked.append(given)
        reason = "error" if len(asked) == 1 else "stop"
        answer = SimpleNamespace(
            token_ids=[5] * (len(asked) - 1),
            logprobs=SimpleNamespace(logprobs=[-1.0]),
            weight_versions=None,
            finish_reason=reason,
        )
        yield SimpleNamespace(outputs=[answer], prompt_token_ids=[1])

    asked = []
    engine._llm = SimpleNamespace(generate=generate, errored=False)
    shown = (SimpleNamespace(to_pil=lambda: "pixels", key="k"),) if pictures else ()
    call = engine.generate([1], max_tokens=1, temperature=0.0, pictures=shown)
    if pictures:
        assert asyncio.run(call).token_ids == [5]
    else:
        with pytest.raises(RequestRefused, match="the request ended with 'error'"):
            asyncio.run(call)
    assert len(asked) == 1 + pictures


def test_a_sleeping_engine_does_not_play(engine):
    async def work():
        await engine.sleep()
        await engine.generate([1, 2], max_tokens=1, temperature=1.0)

    with pytest.raises(AssertionError, match="sleeps until it gets weights"):
        asyncio.run(work())


def test_a_sleeping_engine_gets_buckets_through_the_object_store_too(engine):
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


FOUR = [pack([("a", torch.full((3,), float(i)))]) for i in range(4)]
FAILED = "weights of version 5 did not load: no memory left"


def receive(engine):
    asyncio.run(engine.receive(5, FOUR))


def versions(engine):
    return asyncio.run(engine.generate([1], max_tokens=1, temperature=1.0)).versions.tolist()


def test_each_bucket_is_loaded_as_it_was_written(engine, shared_memory):
    receive(engine)
    assert engine._llm.loaded == [[float(i)] * 3 for i in range(4)]
    assert versions(engine) == [5]
    assert list(shared_memory.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "version", "calls"),
    [
        ("pause_generation", 4, ["pause_generation", "resume_generation"]),
        ("resume_generation", 5, ["resume_generation", "resume_generation"]),  # all is loaded
    ],
)
def test_where_no_weights_are_mixed_the_engine_goes_on(call, version, calls):
    engine = failing((call, 0))
    with pytest.raises(EngineFailure, match=FAILED):
        receive(engine)
    assert names(engine)[-2:] == calls
    assert (versions(engine), engine.lost) == ([version], "")
    receive(engine)  # the next update is not hindered
    assert versions(engine) == [5]


@pytest.mark.parametrize(
    ("fails", "cause"),
    [
        ([("update_weights", 0)], "given up in the middle"),
        ([("update_weights", 2)], "given up in the middle"),
        ([("finish_weight_update", 0)], "given up in the middle"),
        # layers may be prepared in part, and vLLM refuses to finish what has not begun
        ([("start_weight_update", 0), ("finish_weight_update", 0)], "could not be given up"),
        ([("pause_generation", 0), ("resume_generation", 0)], "could not be given up"),
        ([("update_weights", 0), ("pause_generation", 1)], "given up in the middle"),
    ],
)
def test_where_they_may_be_the_engine_is_lost_and_its_sequences_end(fails, cause, shared_memory):
    engine = failing(*fails)
    with pytest.raises(EngineFailure, match=FAILED):
        receive(engine)
    assert list(shared_memory.iterdir()) == []
    for refused in (versions, receive):
        with pytest.raises(EngineFailure, match=f"the engine is lost: .*{cause}"):
            refused(engine)
    if "middle" in cause:
        assert engine._llm.calls[-1] == ("pause_generation", "abort")
    else:
        assert names(engine)[-1] in {"finish_weight_update", "resume_generation"}
    calls = len(engine._llm.calls)
    asyncio.run(engine.abort_weight_update())  # nothing is left to give up
    assert len(engine._llm.calls) == calls


def test_a_sequence_in_flight_ends_with_the_engines_loss():
    engine = failing(("update_weights", 1))

    async def work():
        running = asyncio.ensure_future(engine.generate([1], max_tokens=1, temperature=1.0))
        aborted = asyncio.Event()
        answer = engine._llm.generate

        async def generate(*request):
            await aborted.wait()
            async for output in answer(*request):
                yield output

        engine._llm.generate = generate
        await asyncio.sleep(0)
        with pytest.raises(EngineFailure, match=FAILED):
            await engine.receive(5, FOUR)
        aborted.set()
        await running

    with pytest.raises(EngineFailure, match="the engine is lost"):
        asyncio.run(work())


def test_a_cancelled_receive_is_given_up_too(engine):
    async def work():
        engine._llm.update_weights = lambda request: asyncio.sleep(60)
        receiving = asyncio.ensure_future(engine.receive(5, FOUR))
        while "start_weight_update" not in names(engine):
            await asyncio.sleep(0.01)
        receiving.cancel()
        await receiving

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert "given up in the middle" in engine.lost


def test_without_room_in_shared_memory_the_engine_is_not_paused(engine, monkeypatch, shared_memory):
    usage = shutil.disk_usage(shared_memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=8191))
    words = f"{shared_memory} has 0 MiB free, and weights .* engine need 0; cluster.sync_bucket_mib"
    with pytest.raises(OSError, match=words):
        receive(engine)
    assert names(engine) == []
    assert list(shared_memory.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=8192))
    receive(engine)


def test_room_that_is_gone_when_it_is_written_is_no_pause_either(
    engine, monkeypatch, shared_memory
):
    def full(bucket, file, begin):
        if begin:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bucket_file, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        receive(engine)
    assert names(engine) == []
    assert list(shared_memory.iterdir()) == []


def test_an_update_is_given_up_when_the_next_one_begins(engine):
    """The sender of the first may be no more; only the second has sent anything."""

    async def work():
        await engine.abort_weight_update()  # nothing is under way
        await engine.start_weight_update()
        await engine.start_weight_update()
        await engine.update_weights({"names": []})
        await engine.finish_weight_update(6)

    asyncio.run(work())
    begin = ["pause_generation", "start_weight_update"]
    end = ["finish_weight_update", "resume_generation"]
    assert names(engine) == [*begin, *end, *begin, "update_weights", *end]
    finished = [arguments for name, *arguments in engine._llm.calls if name == end[0]]
    assert finished == [[], ["6"]]


def test_a_sleeping_engine_whose_update_is_given_up_is_lost(engine):
    """It has no weights to go on with."""

    async def work():
        await engine.sleep()
        await engine.start_weight_update()
        await engine.abort_weight_update()

    asyncio.run(work())
    assert "given up in the middle" in engine.lost


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
