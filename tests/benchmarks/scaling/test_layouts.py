"""What is read from a run's records and from the machine."""

import pytest

from benchmarks.scaling.layouts import LAYOUTS, SKIPPED, Machine, compare, configuration, measured
from tests.benchmarks.scaling.test_parts import PARTS


def record(update, seconds, idle, engines):
    return {
        "time": 100.0 + update,
        "seconds": seconds,
        "episodes": 256.0,
        "tokens": 5000.0,
        "action_tokens": 3000.0,
        "learner_idle": idle,
        "engine_idle": engines,
    }


def test_the_first_updates_do_not_count_and_long_ones_count_more():
    records = [record(i, 50.0, 0.9, [0.9]) for i in range(SKIPPED)]
    records += [record(4, 1.0, 0.2, [0.5, None]), record(5, 3.0, 0.6, [0.1, 0.3])]
    machine = Machine([103.0, 104.0, 105.0, 109.0], [0.0, 1.5, 3.0, 99.0], [0.0, 1.0, 2.0, 2.0])
    found = measured(records, machine)
    assert found.update_s == pytest.approx(2.0)
    assert found.learner_idle == pytest.approx((0.2 + 1.8) / 4)
    assert found.engine_idle == pytest.approx(0.3)
    assert found.episodes_per_s == pytest.approx(128)
    assert found.tokens_per_s == pytest.approx(2500)
    assert (found.prompt, found.answer) == pytest.approx((2000 / 256, 3000 / 256))


def test_cores_that_others_used_are_not_left(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    machine = Machine([0.0, 10.0, 20.0], [0.0, 18.0, 99.0], [0.0, 13.0, 13.0])
    assert machine.cores_left(0.0, 10.0) == pytest.approx(2 - 0.5)
    assert machine.cores_left(0.0, 0.0) == 2.0  # no two samples: nothing is known


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_predicted_by_its_own_configuration(layout):
    cfg, arguments = configuration(layout, 5, "/tmp")
    assert arguments[0] == "gp_l"
    assert cfg.ppo.updates == 5
    assert (cfg.rollout.workers, cfg.ppo.max_staleness) == {
        "1 engine, 1 rank, staleness 0": (1, 0),
        "1 engine, 1 rank, staleness 1": (1, 1),
        "2 engines, 1 rank, staleness 0": (2, 0),
    }[layout]
    records = [record(i, 1.0, 0.5, [0.5]) for i in range(SKIPPED + 2)]
    found = measured(records, Machine())
    row = compare(layout, PARTS, found, updates=1)
    assert row["ratio"] == pytest.approx(row["episodes_per_s"]["predicted"] / 256)
    assert row["update_s"] == {
        "measured": 1.0,
        "predicted": pytest.approx(256 / row["episodes_per_s"]["predicted"]),
    }
