"""What an evaluation plays, greedily and sampled, and what it says of its episodes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.failures import TooManyFailures
from cluster.phases import evaluate as module
from cluster.phases.evaluate import (
    Played,
    evaluate,
    greedy_requests,
    outcomes,
    passes,
    sampled_requests,
    variant_record,
)
from configs.load import dump, load
from report.statistics import clustered, wilson
from rollout.trajectory_summary import TrajectorySummary
from tests.support.learner import config


def summary(number, success, end="terminated", tokens=10, question=""):
    metrics = {"success": success, "first_try": 0.0}
    return TrajectorySummary(
        f"x/{number}", end, "", 2.0 * success, 30, tokens, 0, metrics, question
    )


PLAYED = [summary(0, 1.0), summary(1, 0.0, "truncated"), summary(2, 0.0, "failed", 1000)]
NOTHING = Played("sampled", [], [])


def settings(**changed):
    cfg = config()
    return replace(cfg, eval=replace(cfg.eval, **changed))


def sampled_of(*groups):
    """Samples of seeds 7, 8, …: True solved, False not, None failed."""
    requests, summaries = [], []
    for seed, group in enumerate(groups, 7):
        for i, solved in enumerate(group):
            requests.append(SimpleNamespace(seed=seed, sample_index=i))
            end = "failed" if solved is None else "terminated"
            summaries.append(summary(f"{seed}/{i}", float(bool(solved)), end))
    return Played("sampled", requests, summaries)


def test_an_evaluation_of_two_policies_is_a_fault():
    newer = replace(summary(1, 0.0), oldest_version=1)
    with pytest.raises(AssertionError, match=r"several policies: versions \[0, 1\]"):
        variant_record(Played("greedy", [], [summary(0, 1.0)]), Played("sampled", [], [newer]), 1.0)
    silent = replace(newer, oldest_version=-1, action_tokens=0)  # sampled nothing
    variant_record(Played("greedy", [], [summary(0, 1.0), silent]), NOTHING, 1.0)


def test_every_stage_plays_the_same_seeds_greedily():
    cfg = settings(episodes=3, seed=50, temperature=0.5)
    start, ppo = (greedy_requests(cfg, stage, "hard") for stage in ("start", "ppo"))
    assert [r.id for r in ppo] == [f"ppo/hard/greedy/{i:06d}/000" for i in range(3)]
    assert [r.seed for r in start] == [r.seed for r in ppo] == [50, 51, 52]
    assert {(r.variant, r.temperature, r.sampling_seed) for r in ppo} == {("eval/hard", 0.0, 7)}


def test_the_first_questions_are_sampled_several_times():
    cfg = settings(sampled_questions=2, samples=3, seed=50, temperature=0.5)
    requests = sampled_requests(cfg, "sft", "hard")
    assert [(r.seed, r.sample_index) for r in requests] == [
        (50, 0),
        (50, 1),
        (50, 2),
        (51, 0),
        (51, 1),
        (51, 2),
    ]
    assert {r.temperature for r in requests} == {0.5}
    assert all(r.group_id == r.seed for r in requests)
    ids = [r.id for r in requests]
    assert ids == sorted(set(ids)), "the buffer answers in the order of ids"
    assert not set(ids) & {r.id for r in greedy_requests(cfg, "sft", "hard")}
    assert sampled_requests(settings(sampled_questions=0), "sft", "hard") == []


def test_no_question_is_sampled_that_is_not_asked_greedily():
    cfg = settings(episodes=2, sampled_questions=5, samples=1)
    greedy = {r.seed for r in greedy_requests(cfg, "sft", "hard")}
    assert [r.seed for r in sampled_requests(cfg, "sft", "hard")] == sorted(greedy)


def test_success_is_that_of_greedy_answers():
    greedy = Played("greedy", [], PLAYED)
    sampled = sampled_of((True, False, False, None))
    record = variant_record(greedy, sampled, seconds=4.0)
    assert (record["success"], record["n"], record["reward"]) == (0.5, 2, 1.0)
    assert record["greedy"] == {key: record[key] for key in record["greedy"]}
    assert record["first_try"] == 0.0
    assert record["first_try_interval"] == list(wilson(0, 2))
    assert (record["sampled"]["success"], record["sampled"]["n"]) == (pytest.approx(1 / 3), 3)
    assert record["pass_at"] == {"1": pytest.approx(1 / 3)}
    assert "sampled" not in variant_record(greedy, NOTHING, seconds=4.0)


def test_a_reward_alone_is_no_success():
    greedy = Played("greedy", [], [replace(PLAYED[1], reward=3.0)] * 2)
    record = variant_record(greedy, NOTHING, seconds=4.0)
    assert (record["success"], record["reward"]) == (0.0, 3.0)


def test_failed_episodes_are_counted_and_no_more():
    record = variant_record(Played("greedy", [], PLAYED), NOTHING, seconds=4.0)
    assert record["interval"] == list(wilson(1, 2))
    assert record["ends"] == {"terminated": 1, "truncated": 1, "failed": 1}
    assert (record["tokens_per_second"], record["seconds"]) == (1020 / 4, 4.0)


def test_an_evaluation_of_failures_alone_names_the_first():
    broken = replace(PLAYED[2], failure="no cards left")
    with pytest.raises(TooManyFailures, match="no cards left"):
        variant_record(Played("greedy", [], [broken]), NOTHING, 1.0)


def test_intervals_count_questions_and_not_episodes():
    same = [summary(i, 1.0 if i < 10 else 0.0, question=f"q{i % 2}") for i in range(20)]
    own = [replace(s, question="") for s in same]
    record, alone = (variant_record(Played("greedy", [], s), NOTHING, 1.0) for s in (same, own))
    assert (record["questions"], alone["questions"], record["n"]) == (2, 20, 20)
    assert alone["interval"] == list(wilson(10, 20))
    assert record["interval"] != alone["interval"]


def test_pass_at_k_is_the_mean_over_the_questions_that_have_the_samples():
    found = passes(sampled_of((True, False, False, False), (True, True, True, True)))
    assert found["pass_at"] == {"1": pytest.approx((0.25 + 1) / 2), "4": 1.0}
    assert found["pass_at_questions"] == {"1": 2, "4": 2}
    assert passes(sampled_of((False, False, False, None)))["pass_at"] == {"1": 0.0}
    assert passes(sampled_of((True,) * 4, (None,) * 4))["pass_at"] == {"1": 1.0, "4": 1.0}
    assert passes(NOTHING) == {"pass_at": {}, "pass_at_questions": {}, "pass_at_interval": {}}


def test_one_failed_sample_takes_its_question_from_pass_at_k_alone():
    found = passes(sampled_of(*[(False,) * 4] * 9, (True, True, True, None)))
    assert found["pass_at"] == {"1": pytest.approx(0.1), "4": 0.0}
    assert found["pass_at_questions"] == {"1": 10, "4": 9}
    assert found["pass_at_interval"] == {
        "1": list(clustered([0.0] * 9 + [4.0], [4] * 10)),
        "4": list(clustered([0.0] * 9, [4] * 9)),
    }


def test_seeds_that_ask_the_same_are_one_question():
    """As the tables of a study have it, which read the rows of outcomes."""
    played = sampled_of((True, False), (False, False), (True, True))
    said = ["q", "q", "q", "q", "", ""]
    same = [replace(s, question=q) for s, q in zip(played.summaries, said, strict=True)]
    found = passes(played._replace(summaries=same))
    assert found["pass_at"] == {"1": pytest.approx((0.25 + 1) / 2)}


def test_an_outcome_says_decoding_seed_sample_and_question():
    requests = [SimpleNamespace(seed=88 + i, sample_index=i) for i in range(3)]
    summaries = [replace(PLAYED[0], question="1 2 3 4"), *PLAYED[1:]]
    rows = outcomes(Played("sampled", requests, summaries), "sft", "hard")
    assert [(row["seed"], row["end"], row["question"]) for row in rows] == [
        (88, "terminated", "1 2 3 4"),
        (89, "truncated", "seed 89"),
        (90, "failed", "seed 90"),
    ]
    assert rows[0] == {
        "stage": "sft",
        "variant": "hard",
        "decoding": "sampled",
        "seed": 88,
        "sample": 0,
        "question": "1 2 3 4",
        "end": "terminated",
        "reward": 2.0,
        "success": 1.0,
        "first_try": 0.0,
    }


@pytest.fixture
def play(monkeypatch):
    """A function that evaluates variant `hard`: the evaluation, and what the buffer was asked."""
    asked = []
    buffer = "buffer"

    def first_trajectories(cfg, buffer, number):
        asked.append(number)
        return ["refs"] * 2

    monkeypatch.setattr(module, "first_trajectories", first_trajectories)
    monkeypatch.setattr(module, "conversation", lambda t, renderer: {"said": (t, renderer)})

    def collect(cfg, buffer, requests):
        asked.append({r.temperature for r in requests})
        return [replace(PLAYED[0], id=r.id) for r in requests]

    monkeypatch.setattr(module, "collect", collect)
    return lambda cfg: (evaluate(cfg, buffer, "renderer", "sft", "hard"), asked)


def test_a_variant_is_played_summed_up_and_sampled(play):
    cfg = settings(
        episodes=3, sampled_questions=2, samples=2, variants={"hard": {"hands": "held_out"}}
    )
    cfg = replace(cfg, env=replace(cfg.env, settings={"hands": "train", "verify_iter": 1}))
    (record, shown, rows), asked = play(cfg)
    assert (record["stage"], record["variant"], record["n"]) == ("sft", "hard", 3)
    assert (record["headline"], record["overlap"]) == ("success", "none")
    assert record["pass_at"] == {"1": 1.0}
    assert shown == [{"stage": "sft", "said": ("refs", "renderer")}] * 2
    assert asked == [{0.0}, module.CONVERSATIONS, {cfg.eval.temperature}]
    assert [(row["decoding"], row["seed"] - cfg.eval.seed) for row in rows] == [
        *(("greedy", i) for i in range(3)),
        *(("sampled", i) for i in (0, 0, 1, 1)),
    ]


def test_summaries_in_another_order_are_an_error(play, monkeypatch):
    """Otherwise an outcome would be that of another seed."""
    requests = greedy_requests(settings(episodes=2), "sft", "hard")
    summaries = [replace(PLAYED[0], id=r.id) for r in reversed(requests)]
    monkeypatch.setattr(module, "collect", lambda *_: summaries)
    with pytest.raises(AssertionError, match="in another order"):
        play(settings(episodes=2, variants={"hard": {}}))


@pytest.mark.parametrize(
    ("steps", "data", "found", "expected"),
    [
        (9, None, "none", "none"),
        (9, "mine", "none", "unknown"),
        (9, "mine", "all", "all"),
        (0, "mine", "none", "none"),
    ],
)
def test_own_demonstrations_may_hold_anything(monkeypatch, steps, data, found, expected):
    cfg = config()
    cfg = replace(cfg, sft=replace(cfg.sft, steps=steps, data=data))
    monkeypatch.setattr(module, "overlap", lambda *_: found)
    assert module.overlap_of_training(cfg, ("x", {})) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (["hands=held_out"], "all"),
        (["hands=train"], "none"),
        (["hands=all"], "all"),
        (["face_rule=any", "hands=train"], "none"),
    ],
)
def test_what_the_run_before_was_trained_on_was_trained_on(tmp_path, before, expected):
    keys = [f"env.settings.{key}" for key in before]
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    (tmp_path / "first" / "config.yaml").write_text(dump(load("gp_l", keys)))
    cfg = load("gp_l", ["env.settings.hands=train", f"model.path={tmp_path}/first/checkpoints/ppo"])
    held_out = (cfg.env.id, {**cfg.env.settings, "hands": "held_out"})
    assert module.overlap_of_training(cfg, held_out) == expected


def test_a_run_before_that_cannot_be_read_may_have_trained_on_anything(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("nmae: x")
    cfg = load("gp_l", ["env.settings.hands=train", f"model.path={tmp_path}/checkpoints/ppo"])
    for hands, expected in (("held_out", "unknown"), ("train", "all")):
        evaluated = (cfg.env.id, {**cfg.env.settings, "hands": hands})
        assert module.overlap_of_training(cfg, evaluated) == expected


def test_without_samples_the_greedy_episodes_stay_in_the_buffer(play):
    cfg = settings(episodes=3, sampled_questions=0, variants={"hard": {"verify_iter": 3}})
    (record, _, rows), asked = play(cfg)
    assert asked == [{0.0}, module.CONVERSATIONS]
    assert len(rows) == 3
    assert record["headline"] == "first_try"
    assert "pass_at" not in record
