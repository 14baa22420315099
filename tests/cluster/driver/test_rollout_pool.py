"""Which runs can share engines, and that a real one is shared."""

import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.driver import rollout_pool
from cluster.driver.rollout_pool import (
    CLOSE_S,
    ENGINES_S,
    SHUTDOWN_S,
    RolloutPool,
    _start_workers,
    _stop_workers,
    sharing_key,
)
from cluster.failures import OutOfMemory
from cluster.placement.plan import plan
from cluster.placement.types import Node
from cluster.run import last_resort
from cluster.run.outcome import HANGS
from configs.load import load

RANKS = {"face_rule": "ranks", "require_face": True}


def debug(*overrides):
    return load("gp_l_debug", overrides)


@pytest.mark.parametrize(
    "override",
    [
        "env.settings.face_rule=ranks",
        "seed=3",
        "sft.steps=7",
        "ppo.updates=9",
        "ppo.clip=0.3",
        "eval.episodes=8",
        "cluster.root=elsewhere",
        "name=other",
    ],
)
def test_what_a_kept_engine_can_change(override, tiny_model):
    assert sharing_key(debug(override), tiny_model) == sharing_key(debug(), tiny_model)


@pytest.mark.parametrize(
    "override",
    [
        "rollout.in_flight=16",
        "rollout.workers=2",
        "model.dtype=bfloat16",
        "learner.ranks=2",
        "cluster.object_store_gib=0.5",
        "rollout.context_tokens=128",
        "cluster.address=10.0.0.1:6379",
    ],
)
def test_what_it_cannot(override, tiny_model):
    assert sharing_key(debug(override), tiny_model) != sharing_key(debug(), tiny_model)


def test_as_many_cpus_for_other_ranks_are_another_placement(tiny_model):
    one, two = debug("learner.cpus=1"), debug("learner.ranks=2", "learner.cpus=0.5")
    keys = [sharing_key(cfg, tiny_model) for cfg in (one, two)]
    assert keys[0]["cpus"] == keys[1]["cpus"]
    assert keys[0] != keys[1]


def test_weights_do_not_part_models_and_tokenizers_do(tiny_model, tmp_path):
    for name in ("weights", "tokenizer"):
        (tmp_path / name).mkdir()
        for file in Path(tiny_model).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"others")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    same = sharing_key(debug(), tiny_model)
    assert sharing_key(debug(), str(tmp_path / "weights")) == same
    assert sharing_key(debug(), str(tmp_path / "tokenizer")) != same


@pytest.mark.parametrize(
    ("keys", "started"),
    [((), 1), (("cluster.layout=colocated",), 0)],  # until its ranks have their GPUs
)
def test_engines_start_in_the_background_where_they_have_gpus(monkeypatch, keys, started):
    from cluster import actors

    starts = []
    worker = SimpleNamespace(start=SimpleNamespace(remote=lambda: starts.append(1)))
    actor = SimpleNamespace(remote=lambda *_: worker)
    fake = SimpleNamespace(options=lambda **_: actor)
    monkeypatch.setattr(actors, "RolloutActor", fake)
    cfg = debug(*keys)
    total = {"CPU": 8.0, "GPU": 2.0}
    placed = plan(cfg, [Node("a" * 56, "a", total, total)])
    assert list(_start_workers(cfg, "model", placed).values()) == [worker]
    assert len(starts) == started


@pytest.mark.parametrize(
    ("keys", "restarts", "replaceable"),
    [((), -1, True), (("cluster.layout=colocated",), -1, False)],
)
def test_beside_ranks_on_gpus_no_engine_is_replaced(monkeypatch, keys, restarts, replaceable):
    """A new one would not know which GPUs are its ranks'; a buffer needs none."""
    from cluster.stream import buffer

    cfg = debug("cluster.channel=object_store", *keys)
    total, made = {"CPU": 8.0, "GPU": 2.0}, []
    actor = SimpleNamespace(remote=lambda *given: made.append(given[-1]))
    options = lambda **given: made.append(given["max_restarts"]) or actor  # noqa: E731
    monkeypatch.setattr(buffer, "TrajectoryBuffer", SimpleNamespace(options=options))
    placed = plan(cfg, [Node("a" * 56, "a", total, total)])
    pool = RolloutPool()
    monkeypatch.setattr(pool, "join", lambda *_: None)
    monkeypatch.setattr(rollout_pool, "_sent", lambda cfg: cfg)
    pool._plan, pool._workers = placed, {}
    pool.acquire(cfg, "model")
    assert made == [restarts, replaceable]


@pytest.fixture
def processes(monkeypatch):
    """What a pool has done, in order, without Ray."""
    from cluster.placement import ray_options
    from cluster.stream import buffer

    done = []

    @contextmanager
    def session(cfg, cpus):
        done.append("join")
        yield
        done.append("leave")

    def place(cfg, model, learn):
        done.append("place")
        total = {"CPU": 8.0}
        return plan(cfg, [Node("a" * 56, "a", total, total)], learn=learn)

    def start(cfg, model, plan):
        done.append("start")
        return {"worker": "handle"}

    monkeypatch.setattr(rollout_pool.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(rollout_pool, "session", session)
    monkeypatch.setattr(rollout_pool, "_start_workers", start)
    monkeypatch.setattr(rollout_pool, "_stop_workers", lambda workers: done.append("stop"))
    monkeypatch.setattr(ray_options, "place", place)
    fake = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: None))
    monkeypatch.setattr(buffer, "TrajectoryBuffer", fake)
    return done


def test_an_engine_that_does_not_end_by_request_is_named_and_killed(monkeypatch, capsys):
    causes = [None, GetTimeoutError("Get timed out"), RayActorError(error_msg="it fell")]

    def get(cause, timeout):
        if cause is not None:
            raise cause

    killed = []
    ray = SimpleNamespace(wait=lambda *_, **__: None, get=get)
    monkeypatch.setattr(rollout_pool, "ray", ray)
    monkeypatch.setattr(rollout_pool, "kill", killed.append)
    workers = [
        SimpleNamespace(shutdown=SimpleNamespace(remote=lambda cause=cause: cause))
        for cause in causes
    ]
    _stop_workers(workers)
    assert killed == workers
    first, second = capsys.readouterr().out.splitlines()
    assert first == "rollout worker 1 did not end within 20 s: it is killed"
    assert second.startswith("rollout worker 2 did not end by request: RayActorError: ")


def test_joining_starts_nothing_and_the_place_is_looked_for_again(processes, tiny_model):
    with RolloutPool() as pool:
        assert not pool.join(debug(), tiny_model).gpu
        assert processes == ["join", "place"]
        pool.acquire(debug(), tiny_model)
        assert processes == ["join", "place", "place", "start"]
        pool.release()
        pool.join(debug("seed=3"), tiny_model)
        pool.acquire(debug("seed=3"), tiny_model)
        assert processes == ["join", "place", "place", "start"]
        pool.join(debug("rollout.in_flight=16"), tiny_model)
        assert processes[4:] == ["stop", "leave", "join", "place"]
    assert processes[8:] == ["leave"]


def test_engines_of_an_evaluation_are_not_kept(processes, tiny_model):
    with RolloutPool() as pool:
        pool.acquire(debug(), tiny_model, learn=False)
        pool.release()
        assert processes == ["join", "place", "start", "stop", "leave"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (OutOfMemory("rank 0: out of memory"), ("rank 0: out of memory", 12)),
        (None, ("the run's processes hang", 1)),
        ("done", ("all is done and saved; what stayed was ended by force", 0)),
    ],
)
def test_an_end_that_hangs_has_a_deadline_and_keeps_the_errors_code(
    processes, tiny_model, monkeypatch, error, last
):
    seen = []

    @contextmanager
    def within(*words):
        seen.append(words)
        yield
        seen.append(list(processes))

    def failing():
        with RolloutPool() as pool:
            pool.acquire(debug(), tiny_model)
            processes.clear()
            seen.clear()
            if error == "done":
                pool.release()
            elif error is not None:
                raise error

    monkeypatch.setattr(rollout_pool, "within", within)
    fails = isinstance(error, Exception)
    with pytest.raises(OutOfMemory) if fails else nullcontext():
        failing()
    assert seen[0] == (55.0, "Ray and the engines", *last)
    assert seen[1] == ["stop", "leave"][: 1 if fails else 2]


def test_who_waits_for_ray_alone_is_done_before_who_waits_for_all():
    alone = ENGINES_S + SHUTDOWN_S + last_resort.AGAIN_S
    assert alone + last_resort.WRITE_S < CLOSE_S


def test_where_another_run_follows_the_end_of_the_last_ones_engines_is_not_the_end(
    processes, tiny_model, monkeypatch
):
    seen = []

    def within(seconds, what, *last):
        seen.append(last)
        return nullcontext()

    monkeypatch.setattr(rollout_pool, "within", within)
    with RolloutPool() as pool:
        pool.acquire(debug(), tiny_model)
        pool.release()
        seen.clear()
        pool.join(debug("rollout.in_flight=16"), tiny_model)
        assert seen == [HANGS]
    assert seen == [HANGS, HANGS]


@pytest.mark.slow
def test_a_real_engine_is_kept_for_the_next_run_and_plays_its_rule(tiny_model):
    import ray

    from cluster.phases.evaluate import evaluate
    from rollout.renderer import Renderer

    first = debug("eval.episodes=32", "eval.variants={train: {face_rule: five}}")
    second = replace(first, eval=replace(first.eval, variants={"new": RANKS}))
    renderer = Renderer.load(tiny_model)
    with RolloutPool(demonstrations=True) as pool:
        _, workers, buffer = pool.acquire(first, tiny_model)
        ray.get(buffer.start.remote(), timeout=200)
        pid = ray.get(workers[0].start.remote(), timeout=5)
        evaluate(first, buffer, renderer, "start", "train")
        pool.release()
        _, again, other = pool.acquire(second, tiny_model)
        assert list(again) == list(workers)
        ray.get(other.start.remote(), timeout=60)
        assert ray.get(again[0].start.remote(), timeout=5) == pid
        _, samples, rows = evaluate(second, other, renderer, "start", "new")
        assert sum(row["decoding"] == "greedy" for row in rows) == 32
        assert other != buffer
        asked = " ".join(s["messages"][0]["content"] for s in samples)
        stated = set(re.findall(r"([JQK])=(\d+)", asked))
        assert stated
        assert stated <= {("J", "11"), ("Q", "12"), ("K", "13")}
        pool.release()
        changed = replace(first, rollout=replace(first.rollout, in_flight=16))
        _, fresh, _ = pool.acquire(changed, tiny_model)
        assert ray.get(fresh[0].start.remote(), timeout=200) != pid
    assert not ray.is_initialized()
