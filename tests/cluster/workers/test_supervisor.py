"""Workers that die, hang, break and come back, without Ray's processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from cluster.failures import DeadlineExceeded, RunFailure, SourceLost, WorkerLost
from cluster.wait import is_dead
from cluster.workers import supervisor as module
from cluster.workers.part import Part, State
from cluster.workers.supervisor import PAUSE_S, Supervisor, WorkerGone
from configs.schema import RunConfig
from rollout.engine import EngineFailure
from tests.support import virtual_time
from tests.support.buffers import begun, made, requests
from tests.support.fake_worker import asynchronous
from tests.support.fleet import FleetLog, Worker, unavailable

HEARTBEAT_S = 0.4


def task_error(cause):
    return RayTaskError("call", "a traceback", cause)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "restart", lambda worker: worker.kill())
    monkeypatch.setattr(Part, "backoff_s", 0.0)


def supervised(scenario, workers=2, replaceable=True, most=3, before=None, heart=HEARTBEAT_S):
    async def run():
        cfg = RunConfig()
        cluster = replace(cfg.cluster, heartbeat_s=heart)
        cfg = replace(cfg, cluster=cluster, rollout=replace(cfg.rollout, max_restarts=most))
        made, fleet = [Worker() for _ in range(workers)], FleetLog()
        if before is not None:  # they have served another buffer, and are as it left them
            before(made)
        supervisor = Supervisor(made, cfg, replaceable, fleet, takes_over=before is not None)
        await supervisor.start()
        await scenario(supervisor, made, fleet)

    virtual_time.run(run())


async def until(reached, seconds=3.0):
    begin = virtual_time.now()
    while not reached():
        assert virtual_time.now() - begin < seconds, "in vain"
        await asyncio.sleep(0.005)
    return virtual_time.now() - begin


def work(supervisor, workers, index, *asked, deadline=30.0):
    call = workers[index].work.remote(*asked)
    return supervisor.ask(index, "do it", call, deadline, "block_deadline_s")


def test_engines_start_once_whoever_asks_and_serve():
    async def scenario(supervisor, workers, fleet):
        await asyncio.gather(supervisor.start(), supervisor.start())
        assert [w.starts for w in workers] == [1, 1]
        assert all(len(w.runs) == 1 for w in workers)
        assert supervisor.nodes == ["node 1", "node 1"]
        assert supervisor.present() == [0, 1]
        assert supervisor.serves(1)
        assert await work(supervisor, workers, 1, "done") == "done"

    supervised(scenario)


def test_an_engine_that_does_not_start_at_first_ends_the_run():
    async def run():
        worker = Worker()
        worker.start_fates = [task_error(EngineFailure("vLLM cannot start on x: no room"))] * 2
        supervisor = Supervisor([worker], RunConfig(), True, FleetLog())
        for _ in range(2):
            with pytest.raises(WorkerLost, match=r"worker 0 .* start its engine: .* no room"):
                await supervisor.start()

    virtual_time.run(run())


@pytest.mark.parametrize("replaceable", [True, False])
def test_an_actor_that_is_killed_in_its_first_start_is_replaced_where_it_can_be(replaceable):
    async def run():
        workers, fleet = [Worker(), Worker()], FleetLog()
        workers[0].start_fates = [unavailable()]
        supervisor = Supervisor(workers, RunConfig(), replaceable, fleet)
        if not replaceable:
            with pytest.raises(WorkerLost, match=r"worker 0 .* start its engine: .* socket closed"):
                await supervisor.start()
            return
        await supervisor.start()
        assert supervisor.present() == [1]
        await until(lambda: supervisor.serves(0))
        assert [incident["kind"] for incident in supervisor.incidents] == ["failure", "restart"]
        assert (workers[0].kills, workers[0].starts, fleet.failures) == (0, 1, [])

    virtual_time.run(run())


def test_an_actor_that_cannot_be_made_ends_the_run_at_its_first_start():
    async def run():
        worker = Worker()
        worker.start_fates = [ActorDiedError()]
        supervisor = Supervisor([worker], RunConfig(), True, FleetLog())
        with pytest.raises(WorkerLost, match="start its engine"):
            await supervisor.start()
        assert supervisor.incidents == []

    virtual_time.run(run())


def hangs(worker):
    worker.fate = "hangs"


def has_lost_its_engine(worker):
    worker.start_fates = [task_error(EngineFailure("vLLM died: killed"))]


@pytest.mark.parametrize(
    ("leave", "words", "kills"),
    [
        (Worker.die, "socket closed", 0),
        (hangs, "did not give a sign of life within 0.4 s", 1),
        (has_lost_its_engine, "vLLM died: killed", 1),
    ],
)
def test_who_takes_over_replaces_a_worker_that_was_lost_meanwhile(leave, words, kills):
    async def scenario(supervisor, workers, fleet):
        assert supervisor.present() == [1]
        await until(lambda: supervisor.serves(0))
        assert (workers[0].kills, workers[0].starts) == (kills, 1)
        assert (workers[1].kills, workers[1].starts) == (0, 1)
        assert supervisor.nodes == ["node 2", "node 1"]
        failure, back = supervisor.incidents
        assert (failure["kind"], failure["who"]) == ("failure", "rollout worker 0")
        assert words in failure["cause"]
        assert (back["kind"], back["proof"]) == ("restart", "replayed")
        assert not fleet.failures
        assert await work(supervisor, workers, 0, "done") == "done"

    supervised(scenario, before=lambda workers: leave(workers[0]))


@pytest.mark.parametrize(
    ("fate", "words", "kills"),
    [
        (unavailable(), "socket closed", 0),
        (task_error(EngineFailure("vLLM died: killed")), "EngineFailure: vLLM died: killed", 1),
    ],
)
def test_a_death_is_found_at_once_and_the_worker_comes_back(fate, words, kills):
    async def scenario(supervisor, workers, fleet):
        waiting = asyncio.ensure_future(work(supervisor, workers, 0, "never", 100.0))
        await asyncio.sleep(0.05)
        workers[0].fate, workers[0].restarting = fate, 0 if kills else 2
        assert await until(lambda: fleet.losses) < 0.2
        assert supervisor.present() == [1]
        with pytest.raises(WorkerGone, match=words):
            await waiting
        await until(lambda: supervisor.serves(0))
        assert [index for index, _ in fleet.losses] == [0]
        assert words in fleet.losses[0][1]
        assert (workers[0].kills, workers[0].starts, len(workers[0].runs)) == (kills, 2, 2)
        assert supervisor.nodes[0] == "node 2"
        assert fleet.calls == 1
        failure, restart = supervisor.incidents
        assert (failure["kind"], failure["who"], failure["episodes"]) == (
            "failure",
            "rollout worker 0",
            3,
        )
        assert (restart["kind"], restart["proof"]) == ("restart", "replayed")
        assert await work(supervisor, workers, 0, "again") == "again"
        assert fleet.failures == []

    supervised(scenario)


def test_a_hang_makes_it_suspect_and_is_a_loss_at_the_heartbeat():
    async def scenario(supervisor, workers, fleet):
        workers[1].fate = "hangs"
        suspected = await until(lambda: not supervisor.serves(1))
        assert supervisor.present() == [0, 1], "only suspect"
        assert 0.4 * HEARTBEAT_S < suspected < 0.8 * HEARTBEAT_S
        assert suspected + await until(lambda: fleet.losses) < HEARTBEAT_S + 0.15
        words = "rollout worker 1 did not give a sign of life within 0.4 s (cluster.heartbeat_s); "
        words += "the driver waited for it; rollout worker 1 gave its last sign of life "
        assert fleet.losses[0][1].startswith(words)
        await until(lambda: supervisor.serves(1))
        assert workers[1].kills == 1

    supervised(scenario)


def test_one_that_was_only_slow_serves_again():
    async def scenario(supervisor, workers, fleet):
        async def late(seconds):
            await asyncio.sleep(0.7 * HEARTBEAT_S)
            return 1

        normal, workers[0].heartbeat.remote = workers[0].heartbeat.remote, late
        await until(lambda: not supervisor.serves(0))
        workers[0].heartbeat.remote = normal
        await until(lambda: supervisor.serves(0))
        assert (fleet.losses, fleet.calls) == ([], 1)

    supervised(scenario)


def test_a_missed_deadline_is_a_loss():
    async def scenario(supervisor, workers, fleet):
        with pytest.raises(WorkerGone, match=r"0.05 s \(.* last sign of life 0\.[0-3] s before"):
            await work(supervisor, workers, 0, "late", 100.0, deadline=0.05)
        assert supervisor._parts[0]._causes == [fleet.losses[0][1].rpartition(";")[0]], "no number"
        await until(lambda: supervisor.serves(0))
        assert workers[0].kills == 1

    supervised(scenario)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (task_error(AssertionError("a picture has other tokens")), WorkerLost),
        (task_error(ObjectLostError("00", None, "")), SourceLost),
    ],
)
def test_an_error_of_its_own_or_of_a_third_is_no_loss(error, kind):
    async def scenario(supervisor, workers, fleet):
        async def broken():
            raise error

        with pytest.raises(kind) as raised:
            await supervisor.ask(0, "do it", broken(), 30.0, "block_deadline_s")
        assert type(raised.value) is kind
        assert supervisor.serves(0)
        assert fleet.losses == []

    supervised(scenario)


def test_a_start_or_proof_that_fails_is_tried_again():
    async def scenario(supervisor, workers, fleet):
        workers[0].start_fates = [task_error(EngineFailure("no GPU yet"))]
        fleet.prepared = [RunFailure("it plays with other weights")]
        workers[0].die()
        await until(lambda: fleet.losses)
        await until(lambda: supervisor.serves(0))
        causes = [i["cause"] for i in supervisor.incidents if i["kind"] == "failure"]
        assert len(causes) == 3
        assert "no GPU yet" in causes[1]
        assert causes[2] == "it plays with other weights"
        assert len(fleet.losses) == 1, "its episodes are lost once"
        assert workers[0].kills == 2

    supervised(scenario)


def test_one_watch_is_left_after_a_proof_that_failed():
    async def scenario(supervisor, workers, fleet):
        fleet.prepared = [RunFailure("it plays with other weights")]
        workers[0].die()
        await until(lambda: fleet.losses)
        await until(lambda: supervisor.serves(0))
        await asyncio.sleep(0.1)
        watches = [t for t in supervisor._tasks if "_watch" in repr(inner(t))]
        assert len(watches) == len(workers)

    supervised(scenario)


def inner(task):
    """What a guarded task awaits."""
    return task.get_coro().cr_frame.f_locals.get("work")


def test_a_worker_that_dies_while_it_is_asked_is_told_with_its_cause():
    async def scenario(supervisor, workers, fleet):
        workers[0].die()
        with pytest.raises(WorkerGone) as gone:
            await supervisor.ask(0, "do it", workers[0].heartbeat.remote(0.0), 30.0, "x")
        assert is_dead(gone.value), "or it would be killed once more"

    supervised(scenario)


def test_lost_again_and_again_it_ends_the_run_with_the_causes():
    async def scenario(supervisor, workers, fleet):
        fleet.prepared = [RunFailure(f"cause {i}") for i in range(9)]
        workers[0].fate = task_error(EngineFailure("vLLM died: the first"))
        await until(lambda: fleet.failures)
        (failure,) = fleet.failures
        assert "rollout worker 0 was lost 3 times" in str(failure)
        assert "(rollout.max_restarts=2); first: rollout worker 0 was lost" in str(failure)
        assert str(failure).endswith("vLLM died: the first; last: cause 1")
        await asyncio.sleep(0.1)
        assert (supervisor.present(), workers[0].kills) == ([1], 2)

    supervised(scenario, most=2)


def test_an_actor_that_ray_gives_up_is_not_waited_for():
    async def scenario(supervisor, workers, fleet):
        async def dead(seconds):
            raise ActorDiedError

        workers[0].heartbeat.remote = dead
        await until(lambda: fleet.failures)
        assert "rollout worker 0 was lost 2 times" in str(fleet.failures[0])

    supervised(scenario, most=1)


def test_one_that_was_only_out_of_reach_is_ended_before_it_serves_again():
    async def scenario(supervisor, workers, fleet):
        workers[0].fate = unavailable()
        await until(lambda: fleet.losses)
        workers[0].fate = None
        await until(lambda: supervisor.serves(0))
        assert (workers[0].kills, workers[0].pid) == (1, 2)

    supervised(scenario)


def test_a_loss_while_it_is_brought_back_is_found_too():
    async def scenario(supervisor, workers, fleet):
        async def prepare(index):
            call = workers[index].work.remote("weights", 100.0)
            asyncio.get_running_loop().call_later(0.05, workers[index].die)
            fleet.prepare = FleetLog().prepare
            await supervisor.ask(index, "receive weights", call, 30.0, "sync_deadline_s")

        fleet.prepare = prepare
        workers[0].die()
        await until(lambda: fleet.losses)
        await until(lambda: supervisor.serves(0))
        assert [i["kind"] for i in supervisor.incidents] == ["failure", "failure", "restart"]
        assert (len(fleet.losses), workers[0].starts) == (1, 3)

    supervised(scenario)


def test_a_loss_that_its_preparation_does_not_meet_is_found_too():
    async def scenario(supervisor, workers, fleet):
        async def prepare(index):
            workers[index].die()
            fleet.prepare = FleetLog().prepare
            await asyncio.sleep(0.05)
            return {"proof": "there are no weights"}

        fleet.prepare = prepare
        workers[0].die()
        await until(lambda: fleet.losses)
        await until(lambda: supervisor.serves(0))
        assert workers[0].starts == 3
        assert supervisor.incidents[-1]["proof"] == "replayed"
        assert await work(supervisor, workers, 0, "again") == "again"

    supervised(scenario)


def test_where_none_can_be_replaced_a_loss_ends_the_run():
    async def scenario(supervisor, workers, fleet):
        waiting = asyncio.ensure_future(work(supervisor, workers, 0, "x", 100.0, deadline=0.05))
        with pytest.raises(DeadlineExceeded):
            await waiting
        await until(lambda: fleet.failures)
        assert isinstance(fleet.failures[0], DeadlineExceeded)
        await asyncio.sleep(0.1)
        assert supervisor.present() == [1]
        assert workers[0].kills == 0

    supervised(scenario, replaceable=False)


def test_states_are_those_of_the_parts():
    assert [*State] == ["starting", "serving", "suspect", "lost", "replacing"]


@asynchronous
async def test_a_worker_that_answers_otherwise_is_not_asked_for_signs_of_life():
    _, run, (worker,) = await made()
    await begun(run.collect(requests(4)))
    for name in list(worker.playing):
        await asyncio.sleep(PAUSE_S - 0.5)
        await worker.finish(name)
    await asyncio.sleep(PAUSE_S - 0.1)
    assert worker.signs == 1  # that it was asked for before it had answered
    await asyncio.sleep(0.2)
    assert worker.signs == 2
