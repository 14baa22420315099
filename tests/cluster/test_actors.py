"""The rollout actor without Ray: what it makes of a configuration, and what it passes on."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from ray import cloudpickle

from cluster import actors
from cluster.failures import EpochOver, RunFailure
from cluster.handles import BlockRows
from configs.load import load
from report.spans import read_spans
from rollout.engine import EngineFailure
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeRequest
from rollout.trajectory import from_block, to_block
from rollout.trajectory_summary import from_columns, summarize, to_columns
from tests.support import virtual_time
from tests.support.learner import trajectories

TRACER = trace.get_tracer("cardinal")
PLAYED = trajectories(6)
Actor = actors.RolloutActor.__ray_metadata__.modified_class


class FakeEngine:
    def __init__(self):
        self.received, self.cause = [], None

    def death(self):
        return self.cause

    async def probe(self):
        pass

    async def sleep(self):
        await asyncio.sleep(20)

    async def receive(self, version, buckets):
        self.received.append((version, buckets))
        return 0.25


class FakeWorker:
    def __init__(self, settings, renderer, environments, limits, processes, in_flight, block, age):
        self.settings, self.environments, self.limits = settings, environments, (limits, processes)
        self.in_flight, self.block, self.engine, self.starts = in_flight, block, None, 0
        self.age, self.drops = age, 0

    def begin_environments(self):
        pass

    async def start(self):
        self.starts += 1
        await asyncio.sleep(0.01)
        self.engine = FakeEngine()

    async def drop(self):
        self.queue, self.drops = [], self.drops + 1

    async def submit(self, requests):
        self.queue = [*getattr(self, "queue", []), *requests]

    async def next_block(self):
        block, self.queue = self.queue[:2], self.queue[2:]
        played = [t for t in PLAYED if t.id in [r.id for r in block]]
        return to_block(played), to_columns([summarize(t) for t in played])

    async def shutdown(self):
        self.engine.cause = "vLLM has ended"

    async def reconfigure(self, environments, limits, processes):
        self.environments, self.limits = environments, (limits, processes)


@pytest.fixture
def make(monkeypatch):
    """Makes an actor over a fake worker."""

    def made(cfg, processor=None, **options):
        renderer = SimpleNamespace(forbidden=(1,), stop_ids=(2,), processor=processor)
        monkeypatch.setattr(actors, "Renderer", SimpleNamespace(load=lambda folder: renderer))
        monkeypatch.setattr(actors, "RolloutWorker", FakeWorker)
        return Actor(cfg, "folder", {"rollout": ("id", {})}, **options)

    return made


def debug(*overrides):
    return load("gp_l_debug", overrides)


def test_a_worker_among_many_sends_partial_blocks_less_often(make):
    assert make(debug("rollout.workers=40"))._worker.age == 4.0


def test_the_engine_is_started_as_the_run_is_configured(make):
    overrides = (
        "rollout.in_flight=7",
        "rollout.block=5",
        "rollout.context_tokens=99",
        "seed=3",
        "rollout.threads=2",
        "rollout.kv_cache_gib=0.5",
        "rollout.gpu_memory=0.4",
    )
    worker = make(debug(*overrides), channel="nccl")._worker
    settings = worker.settings
    assert (worker.in_flight, worker.block, worker.age) == (7, 5, 0.2)
    assert (settings.folder, settings.channel, settings.dtype) == ("folder", "nccl", "float32")
    assert (settings.max_sequences, settings.context_tokens, settings.threads) == (7, 99, 2)
    assert (settings.kv_cache_gib, settings.gpu_memory, settings.seed) == (0.5, 0.4, 3)
    assert (settings.forbidden, settings.stop_ids, settings.images) == ((1,), (2,), 0)
    assert settings.tensor_parallel == 1
    assert worker.limits[1] == ProcessLimits(), "the defaults are the schema's"


def test_an_engine_reads_the_files_unless_the_run_says_otherwise(make):
    assert make(debug())._worker.settings.reads_weights
    assert not make(debug("rollout.read_weights=false"))._worker.settings.reads_weights


def test_a_model_that_sees_has_room_for_a_picture(make):
    assert make(debug(), processor="p")._worker.settings.images == 1


@pytest.mark.parametrize(("layout", "sleeps"), [("colocated", True), ("disaggregated", False)])
def test_only_an_engine_on_shared_gpus_can_sleep(make, layout, sleeps):
    cfg = debug()
    cfg = replace(cfg, cluster=replace(cfg.cluster, layout=layout))
    assert make(cfg)._worker.settings.sleep_mode == sleeps


def test_an_engine_starts_on_the_gpus_that_it_is_given(make, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    actor = make(debug(), index=3)
    asyncio.run(actor.use_gpus(["2", "5"]))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"
    actor._worker.engine = FakeEngine()
    asyncio.run(actor.use_gpus(["2", "5"]))  # of a learner group that starts again
    words = "rollout worker 3 plays on GPUs 2,5, and its learner ranks have come back on 4"
    with pytest.raises(RunFailure, match=words):
        asyncio.run(actor.use_gpus(["4"]))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"


def test_the_engine_starts_once_whoever_asks(make):
    actor = make(debug())

    async def start():
        return await asyncio.gather(actor.start(), actor.start())

    assert asyncio.run(start()) == [actor._life] * 2
    assert actor._worker.starts == 1


def test_ray_can_send_the_class():
    assert cloudpickle.dumps(Actor)


def test_an_actor_that_never_started_ends_without_reading_the_model(make):
    actor = make(debug())
    asyncio.run(actor.shutdown())
    assert actor._made is None


def test_a_model_whose_folder_does_not_answer_once_is_read_at_the_next_start(make, monkeypatch):
    """Ray starts no actor again whose constructor has failed."""
    actor, left = make(debug()), [OSError("Stale file handle")]
    load = actors.Renderer.load

    def away_once(folder):
        if left:
            raise left.pop()
        return load(folder)

    monkeypatch.setattr(actors.Renderer, "load", away_once)
    with pytest.raises(OSError, match="Stale"):
        asyncio.run(actor.start())
    asyncio.run(actor.start())
    assert actor._worker.starts == 1


def test_its_spans_are_in_the_folder_of_its_present_run(make, tmp_path):
    def run(name):
        (tmp_path / name).mkdir()
        return debug(f"name={name}", f"cluster.root={tmp_path}")

    actor = make(run("first"), index=3)
    TRACER.start_span("busy").end()
    asyncio.run(actor.reconfigure(run("second"), "environments"))
    TRACER.start_span("idle").end()
    for name, span in (("first", "busy"), ("second", "idle")):
        (found,) = read_spans(tmp_path / name).spans
        assert (found.process.name, found.name) == ("rollout worker 3", span)


def test_the_next_run_brings_its_environments_and_limits(make):
    actor = make(debug())
    cfg = debug()
    limited = replace(
        cfg.rollout, answer_tokens=11, context_tokens=22, max_turns=9, env_processes=3
    )
    cluster = replace(
        cfg.cluster, episode_deadline_s=33.0, env_deadline_s=44.0, start_deadline_s=55.0
    )
    env = replace(cfg.env, memory_gib=0.5)
    cfg = replace(cfg, rollout=limited, cluster=cluster, env=env)
    asyncio.run(actor.reconfigure(cfg, "environments"))
    limits, processes = actor._worker.limits
    assert actor._worker.environments == "environments"
    assert processes == ProcessLimits(3, 44.0, 55.0, 0.5)
    assert limits.max_turns == 9
    assert (limits.answer_tokens, limits.context_tokens, limits.episode_deadline_s) == (
        11,
        22,
        33.0,
    )


def test_one_load_of_weights_is_over_before_the_next_begins(make):
    """A buffer that died may have begun one, and its successor begins another."""
    actor, events = make(debug()), []

    async def receive(version, buckets):
        events.append(("begin", version))
        await asyncio.sleep(0.02)
        events.append(("end", version))
        return 0.0

    async def both():
        await actor.start()
        actor._worker.engine.receive = receive
        await asyncio.gather(actor.receive(4, []), actor.receive(5, []))

    asyncio.run(both())
    assert events == [("begin", 4), ("end", 4), ("begin", 5), ("end", 5)]


def requests(first, last):
    return [EpisodeRequest(t.id, "rollout", t.seed, t.group_id) for t in PLAYED[first:last]]


def test_an_actor_without_an_engine_gives_signs_of_life_too(make):
    actor, other = make(debug()), make(debug())
    first, again = (asyncio.run(actor.heartbeat(0.0)) for _ in range(2))
    assert first == again != asyncio.run(other.heartbeat(0.0)), "in a process of the same number"


def test_a_sign_of_life_comes_after_the_beat_and_the_engines_death_at_once(make):
    async def beat():
        actor = make(debug())
        await actor.start()
        begin = virtual_time.now()
        assert await actor.heartbeat(0.1) == actor._life
        assert virtual_time.now() - begin >= 0.1
        actor._worker.engine.cause = "killed"
        for waiting in (actor.heartbeat(20.0), actor.sleep()):
            with pytest.raises(EngineFailure, match="vLLM died: killed"):
                await waiting
        assert virtual_time.now() - begin < 3

    virtual_time.run(beat())


def test_an_engine_is_silent_by_the_time_for_which_its_actor_was_awake(make, monkeypatch):
    awake = [0.0]
    monkeypatch.setattr(actors, "Awake", lambda: lambda: awake[0])

    async def silent():
        actor = make(debug())
        await actor.start()
        actor._worker.engine.probe = lambda: asyncio.sleep(10_000)
        for awake[0] in (1000.0, 1001.0):  # the first probe was answered
            assert await actor.heartbeat(200.0) == actor._life
        awake[0] = 2000.0
        with pytest.raises(EngineFailure, match="no sign of life"):
            await actor.heartbeat(200.0)

    virtual_time.run(silent())


def test_an_engine_that_ends_by_request_is_no_loss(make):
    async def end():
        actor = make(debug())
        await actor.start()
        await actor.shutdown()
        assert await actor.heartbeat(0.6) == actor._life

    virtual_time.run(end())


def test_episodes_of_an_epoch_that_is_over_are_not_played(make):
    async def play():
        actor = make(debug())
        await actor.submit(3, requests(0, 2))
        await actor.submit(2, requests(2, 4))
        assert [r.id for r in actor._worker.queue] == [t.id for t in PLAYED[:2]]
        _, finished = await actor.next_block(3, requests(4, 5))
        assert finished["epoch"] == 3
        assert [r.id for r in actor._worker.queue] == [PLAYED[4].id]
        assert [s.id for s in from_columns(finished["columns"])] == [t.id for t in PLAYED[:2]]
        await actor.enter(4)
        assert actor._worker.queue == []
        await actor.enter(3)
        assert (await actor.next_block(4, requests(5, 6)))[1]["epoch"] == 4
        await actor.submit(4, requests(0, 2))
        block, finished = await actor.next_block(3, requests(2, 3))
        assert (finished["epoch"], from_block(block)) == (3, [])
        assert from_columns(finished["columns"]) == []
        assert [r.id for r in actor._worker.queue] == [t.id for t in PLAYED[:2]]

    asyncio.run(play())


def test_a_block_is_of_the_epoch_in_which_it_was_asked_for(make):
    """The next one may begin while it is waited for."""

    async def play():
        actor = make(debug())
        next_block = actor._worker.next_block

        async def begun():
            await actor.enter(4)
            return await next_block()

        actor._worker.next_block = begun
        assert (await actor.next_block(3, requests(0, 1)))[1]["epoch"] == 3

    asyncio.run(play())


def test_the_next_run_counts_its_epochs_anew(make):
    async def play():
        actor = make(debug())
        await actor.submit(3, requests(0, 1))
        await actor.reconfigure(debug(), "environments")
        await actor.submit(1, requests(1, 2))
        assert actor._worker.queue[-1].id == PLAYED[1].id

    asyncio.run(play())


def test_what_others_have_played_is_played_again_and_compared(make):
    async def fetched(value):
        return value

    async def replay():
        actor = make(debug())
        apart = PLAYED[2].segments[0]
        apart = replace(apart, behavior_logprobs=apart.behavior_logprobs - 1)
        other = replace(PLAYED[2], segments=(apart, *PLAYED[2].segments[1:]))
        played = [
            BlockRows(fetched(to_block(PLAYED[:2])), [1], 0),
            BlockRows(fetched(to_block([other])), [0], 2),
        ]
        return await actor.replay(requests(1, 3), played)

    apart, tokens = asyncio.run(replay())
    first = int(PLAYED[2].segments[0].action_mask.sum())
    assert tokens == sum(t.action_tokens for t in PLAYED[1:3])
    assert apart == pytest.approx(first / tokens)


def test_a_replay_ends_with_the_episodes_that_it_waits_for(make):
    """A buffer that died had begun it; the next one's episodes are none of its own."""

    async def fetched(value):
        return value

    async def replay():
        actor = make(debug())
        played = [BlockRows(fetched(to_block(PLAYED[:1])), [0], 0)]
        next_block = actor._worker.next_block

        async def dropped():
            await actor._worker.drop()
            await asyncio.sleep(0)
            return await next_block()

        actor._worker.next_block = dropped
        await asyncio.wait_for(actor.replay(requests(0, 1), played), 30)

    with pytest.raises(EpochOver, match="have been dropped"):
        asyncio.run(replay())
