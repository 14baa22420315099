"""The smallest sizes run, what does not fit says which memory is short, and what is in the way."""

import json

import pytest

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.gpu import Model
from benchmarks.scaling.hardware import Hardware
from benchmarks.scaling.sizes import divisions, in_the_way, row
from cluster.placement.types import RESERVE
from tests.benchmarks.scaling.test_parts import PARTS, ROWS


def made(model, gpus, episodes=64, updates=1):
    return row(Hardware("H100"), Model(model), gpus, PARTS.host, episodes, updates)


def test_the_command_prints_a_row_for_each_size(tmp_path, capfd):
    measured = tmp_path / "measured.jsonl"
    measured.write_text("".join(json.dumps(part) + "\n" for part in ROWS))
    arguments = "predict --models 1.5B --gpus 1 2 --episodes 64 --updates 1 --measured"
    main([*arguments.split(), str(measured)])
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(r["model"], r["gpus"], r["layout"]) for r in rows] == [
        ("1.5B", 1, "colocated"),
        ("1.5B", 2, "disaggregated"),
    ]
    for r in rows:
        assert r["fits"]
        assert 0 < r["learner_idle"] < 1
        assert 0 <= r["engine_idle"] < 1
        assert r["episodes_per_s"] == pytest.approx(64 / r["update_s"], rel=1e-3)


def test_no_update_is_shorter_than_its_longest_part_and_memory_fits():
    found = made("7B", 16)
    assert found["memory_gib"]["rank"] <= RESERVE * 80
    longest = max(found["alone_s"].values())
    assert found["update_s"] >= 0.95 * longest
    assert found["in_the_way"] in found["alone_s"]


def test_what_does_not_fit_names_the_memory_that_is_short():
    found = made("72B", 1)
    assert not found["fits"]
    assert found["in_the_way"].startswith("memory of ")
    assert "GiB" in found["in_the_way"]


def test_every_gpu_is_used_once():
    for gpus in (1, 2, 8, 24):
        chosen = list(divisions(gpus))
        assert chosen
        for ranks, engines, parallel, colocated in chosen:
            if colocated:
                assert ranks == engines * parallel == gpus
            else:
                assert ranks + engines * parallel == gpus
    assert len(set(divisions(8))) == len(list(divisions(8)))


@pytest.mark.parametrize(
    ("longest", "named"),
    [
        ({"learner": 9.0}, "learner"),
        ({"learner": 9.0, "gathers": 9.0}, "gathers"),
        ({"engines": 9.0}, "engines"),
        ({"sync": 9.0}, "sync"),
        ({"buffer": 9.0}, "buffer"),
        ({"longest episode": 9.0}, "longest episode"),
    ],
)
def test_in_the_way_is_what_alone_takes_longest(longest, named):
    names = ("learner", "gathers", "engines", "longest episode", "sync", "buffer")
    assert in_the_way(dict.fromkeys(names, 1.0) | {"gathers": 0.5} | longest) == named
