"""The proof of weights: every kind is perturbed, published, played, compared and put back."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.failures import ParityError
from cluster.phases import ppo_phase, weight_proof
from cluster.phases.weight_proof import (
    check_correction,
    check_parity,
    check_update,
    proof_requests,
    prove,
    prove_joined,
)
from cluster.workers.parity_limit import parity_limit
from learner.model import WEIGHT_KINDS
from tests.cluster.fakes import (
    FakeCollector,
    FakeEngine,
    FakeEvaluation,
    FakePublisher,
    FakeRank,
)
from tests.support.learner import config


@pytest.fixture
def rank(tmp_path):
    return FakeRank(config(), tmp_path)


def test_every_kind_that_there_is_is_proven_and_put_back(rank, monkeypatch):
    compared = []

    def parity(engine, trajectories, cfg, version):
        rank.done.append("compare")
        compared.append((trajectories, version))
        return {"parity_mean_abs": 1e-6}

    monkeypatch.setattr(weight_proof, "parity", parity)
    rank.version, collector = 3, FakeCollector(rank)
    prove(rank, FakePublisher(rank), collector, FakeEngine(rank.done))
    known = [kind for kind in WEIGHT_KINDS if kind != "head"]
    steps = ["publish", "play", "compare", "restore"]
    order = {kind: [f"perturb {kind}", *steps] for kind in known}
    assert rank.done == [
        step for kind in WEIGHT_KINDS for step in order.get(kind, [f"perturb {kind}"])
    ] + ["publish"]
    assert compared == [(["a", "b"], 3)] * len(known)
    assert [requests[0].id for requests in collector.collected] == [
        f"proof/{kind}/000000" for kind in known
    ]
    (record,) = rank.of("sync")
    assert collector.released == 1
    assert list(record["check"]) == known
    assert (record["version"], record["bytes"], record["buckets"]) == (3, 0, 0)


def test_a_kind_that_did_not_arrive_is_named_and_the_weights_are_put_back(rank, monkeypatch):
    monkeypatch.setattr(weight_proof, "parity", lambda *_: {"parity_mean_abs": 0.2})
    with pytest.raises(
        ParityError, match=f"the proof of {WEIGHT_KINDS[0]} weights: log-probabilities"
    ):
        prove(rank, FakePublisher(rank), FakeCollector(rank), FakeEngine(rank.done))
    assert rank.done[-1] == "restore"
    assert rank.records == []


@pytest.mark.parametrize(
    ("dtype", "difference", "refused"),
    [
        ("float32", 0.9e-4, False),
        ("float32", 1.1e-4, True),
        ("bfloat16", 4e-2, False),
        ("bfloat16", 6e-2, True),
        ("float32", math.nan, True),
    ],
)
def test_what_is_rounding_and_what_is_not(dtype, difference, refused):
    cfg = config()
    cfg = replace(cfg, model=replace(cfg.model, dtype=dtype))
    off = replace(cfg, cluster=replace(cfg.cluster, weight_proof=False))
    check_parity(off, {"parity_mean_abs": difference}, "it")
    check_parity(cfg, {}, "no episode was played by this version")
    if refused:
        with pytest.raises(ParityError, match="it: log-probabilities of engine and learner"):
            check_parity(cfg, {"parity_mean_abs": difference}, "it")
    else:
        check_parity(cfg, {"parity_mean_abs": difference}, "it")


def test_the_worst_engine_is_named_within_what_so_few_tokens_may_differ_by():
    cfg = config()
    names = ("parity_worst_engine", "parity_worst_mean_abs", "parity_worst_tokens")
    base = {"parity_tokens": 5000.0, "parity_mean_abs": 0.9e-4}

    def check(engine, difference, tokens, **other):
        found = dict(zip(names, (engine, difference, tokens), strict=True))
        check_parity(cfg, base | found | other, "PPO update 3")

    check(7.0, 1.9e-4, 64.0)
    check(math.nan, math.nan, math.nan)
    check(0.0, math.nan, 64.0, parity_tokens=0.0)
    for engine, difference, tokens in (
        (7.0, 2.1e-4, 64.0),
        (7.0, 1.1e-4, 1e6),
        (7.0, math.nan, 64.0),
    ):
        with pytest.raises(ParityError, match=r"^PPO update 3: .* of rollout worker 7 and learner"):
            check(engine, difference, tokens)
    with pytest.raises(
        ParityError, match=r"of engine and learner differ by 0.0002 .* than 0.0001:"
    ):
        check(7.0, 1.9e-4, 64.0, parity_mean_abs=2e-4)
    with pytest.raises(ParityError, match=r"worker 0 and learner differ by 0.3 .* than 0.0002:"):
        check(0.0, 0.3, 64.0, parity_mean_abs=2e-4)
    words = r"of engine and learner differ by 0.0002 .*, those of rollout worker 1 most: the engine"
    with pytest.raises(ParityError, match=words):  # none has tokens enough to be looked at alone
        check(math.nan, math.nan, math.nan, parity_mean_abs=2e-4, parity_most_engine=1.0)
    with pytest.raises(ParityError, match=r"of rollout worker 7 .*0\.0001: the engine"):
        check(7.0, 1.0, 1e9, parity_most_engine=3.0)  # which is named already


def test_what_was_not_compared_is_no_difference():
    check_parity(config(), {"parity_tokens": 0.0, "parity_mean_abs": math.nan}, "it")


def test_one_engines_policy_that_has_parted_is_named_and_its_few_tokens_may_by_chance():
    def check(overlap, tokens, engine=7.0, correction="truncated"):
        worst = {"correction_worst_engine": engine, "correction_worst_tokens": tokens}
        worst |= {"correction_worst_overlap": overlap, "correction_overlap": 0.9}
        check_correction(config(correction=correction), worst, "PPO update 3")

    check(0.11, 64.0)
    check(0.01, 64.0, math.nan)
    check(0.01, 64.0, correction="none")
    for overlap, tokens in ((0.09, 64.0), (0.19, 1e6), (math.nan, 64.0)):
        with pytest.raises(ParityError, match="the policy that rollout worker 7 sampled"):
            check(overlap, tokens)
    with pytest.raises(ParityError, match=r"9.0% of its 64 tokens, less than 10.0% \(90.0% of all"):
        check(0.09, 64.0)


@pytest.mark.parametrize(
    ("correction", "share", "refused"),
    [
        ("truncated", 0.19, True),
        ("truncated", 0.21, False),
        ("truncated", math.nan, True),
        ("none", 0.01, False),
    ],
)
def test_policies_that_have_parted_are_refused_where_they_are_weighed(correction, share, refused):
    cfg, names = config(correction=correction), ("correction_ess", "correction_overlap")
    check_correction(cfg, {}, "nothing was weighed")
    for low, other in (names, names[::-1]):
        metrics = {low: share, other: 0.5}
        if refused:
            with pytest.raises(ParityError, match=rf"it: the policies .* is {100 * share:.1f}%"):
                check_correction(cfg, metrics, "it")
        else:
            check_correction(cfg, metrics, "it")


@pytest.mark.parametrize(
    ("in_flight", "workers", "episodes"), [(8, 1, 8), (500, 2, 64), (16, 80, 80)]
)
def test_a_proof_plays_one_flight_at_most_and_one_episode_an_engine(in_flight, workers, episodes):
    cfg = config()
    rollout = replace(cfg.rollout, in_flight=in_flight, workers=workers, temperature=0.5)
    requests = proof_requests(replace(cfg, rollout=rollout), "mlp")
    assert [r.id for r in requests] == [f"proof/mlp/{i:06d}" for i in range(episodes)]
    assert [r.seed for r in requests] == [r.group_id for r in requests] == list(range(episodes))
    assert {(r.variant, r.temperature, r.sampling_seed) for r in requests} == {
        ("rollout", 0.5, cfg.seed)
    }


def test_recorded_episodes_are_of_the_learners_weights_at_its_first_update_alone():
    """`cardinal replay RUN ppo.clip=0.3` parts from the recorded policy, as it should."""
    parted = {"parity_mean_abs": 0.3, "correction_ess": 0.8}
    with pytest.raises(ParityError, match="PPO update 2: log-probabilities"):
        check_update(config(), parted, 2)
    replayed = config(blocks="blocks")
    check_update(replayed, parted, 2)
    with pytest.raises(ParityError, match="PPO update 1: log-probabilities"):
        check_update(replayed, parted, 1)
    with pytest.raises(ParityError, match=r"effective .* a smaller ppo.optimizer.lr keeps them"):
        check_update(replayed, {"correction_ess": 0.1}, 2)


class Joined(FakeCollector):
    """Rollout worker 1 joined unproven; what it played for the proof says so."""

    workers = (1,)

    def __init__(self, rank):
        super().__init__(rank)
        self.asked, self.paid, self.seeds = [], [], []

    def play_unproven(self, version, requests):
        self.asked.append((version, [request.id for request in requests]))
        self.seeds.append([request.seed for request in requests])
        return list(self.workers)

    def fetch(self):
        return [SimpleNamespace(worker=worker) for worker in (1, 2, 1)]

    def proven(self, worker):
        self.paid.append(worker)


def parity_of(monkeypatch, differences, tokens=70.0):
    """Parity as if each worker's engine differed by so much."""

    def parity(engine, trajectories, cfg, version):
        (worker,) = {t.worker for t in trajectories}
        found = {"parity_tokens": tokens, "parity_mean_abs": differences[worker]}
        return found if tokens else found | {"parity_mean_abs": math.nan}

    monkeypatch.setattr(weight_proof, "parity", parity)


def test_a_wrong_engine_that_joined_unproven_ends_a_run_that_plays_ahead(tmp_path, monkeypatch):
    """No batch would show it: none has a token of the learner's own version."""
    parted = {"tokens": 9.0, "parity_tokens": 0.0, "parity_mean_abs": math.nan}
    monkeypatch.setattr(ppo_phase, "ppo_update", lambda *_, **__: parted)
    parity_of(monkeypatch, {1: 0.9})
    rank = FakeRank(config(updates=2, max_staleness=1), tmp_path)
    collector = Joined(rank)
    phase = ppo_phase.PPOPhase(rank, FakePublisher(rank), collector, FakeEvaluation(rank))
    with pytest.raises(ParityError, match=r"^rollout worker 1, unproven until now"):
        phase.run()
    assert collector.asked == [(1, [f"proof/joined 1/{i:06d}" for i in range(4)])]
    assert collector.seeds == [[4, 5, 6, 7]]
    assert rank.done[-1] == "send", "its next weights are on their way, and it plays with them"
    assert collector.paid == []


def test_one_that_joined_unproven_is_compared_by_what_it_played_itself(tmp_path, monkeypatch):
    parity_of(monkeypatch, {1: 1e-6, 2: 2e-6})
    rank = FakeRank(config(max_staleness=1), tmp_path)
    rank.version, collector = 7, Joined(rank)
    collector.workers = (1, 2)
    prove_joined(rank, collector, None)
    assert collector.paid == [1, 2]
    assert collector.released == 1
    (record,) = rank.of("sync")
    assert record["version"] == 7
    assert {who: check["parity_mean_abs"] for who, check in record["check"].items()} == {
        "rollout worker 1": 1e-6,
        "rollout worker 2": 2e-6,
    }


@pytest.mark.parametrize(("limits", "right"), [(1.9, True), (2.1, False)])
def test_few_tokens_accuse_no_engine_that_joined(tmp_path, monkeypatch, limits, right):
    """Of 64 tokens the mean may be twice the limit, as of one engine among many."""
    rank = FakeRank(config(max_staleness=1), tmp_path)
    apart, collector = limits * parity_limit(rank.cfg), Joined(rank)
    parity_of(monkeypatch, {1: apart}, tokens=64.0)
    with nullcontext() if right else pytest.raises(ParityError, match="rollout worker 1"):
        prove_joined(rank, collector, None)
    assert collector.paid == [1] * right


def test_one_that_has_played_nothing_meanwhile_is_unproven_still(tmp_path, monkeypatch):
    parity_of(monkeypatch, {1: 0.9}, tokens=0.0)
    rank = FakeRank(config(max_staleness=1), tmp_path)
    collector = Joined(rank)
    prove_joined(rank, collector, None)
    assert (collector.paid, len(rank.of("sync"))) == ([], 1)
    rank.version = 2
    prove_joined(rank, collector, None)
    assert collector.seeds == [[0, 1, 2, 3], [8, 9, 10, 11]], "others may end well"
    collector.workers = ()
    prove_joined(rank, collector, None)
    assert (collector.released, len(rank.of("sync"))) == (2, 2)


@pytest.mark.parametrize(
    ("ppo", "weight_proof"),
    [({"max_staleness": 0}, True), ({"max_staleness": 1}, False), ({"blocks": "blocks"}, True)],
)
def test_where_batches_are_compared_or_nothing_is_none_is_asked(tmp_path, ppo, weight_proof):
    cfg = config(**{"max_staleness": 1} | ppo)
    cfg = replace(cfg, cluster=replace(cfg.cluster, weight_proof=weight_proof))
    rank = FakeRank(cfg, tmp_path)
    collector = Joined(rank)
    prove_joined(rank, collector, None)
    assert collector.asked == []
