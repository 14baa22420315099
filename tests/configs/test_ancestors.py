"""The runs before a run: found by its model folder; their seeds are not evaluated on."""

import pytest

from configs.ancestors import ancestors, check_ancestors
from configs.load import ConfigError, dump, load


def run(root, name, *keys, source=None):
    """A run folder with its configuration, as `train` leaves it; the configuration."""
    start = [f"model.path={root}/{source}/checkpoints/sft"] if source else []
    cfg = load("gp_l_debug", [f"name={name}", *start, *keys])
    (root / name / "checkpoints").mkdir(parents=True)
    (root / name / "config.yaml").write_text(dump(cfg))
    return cfg


def test_a_chain_is_followed_to_its_first_run(tmp_path):
    assert list(ancestors(run(tmp_path, "first"))) == []
    run(tmp_path, "second", "sft.steps=0", "ppo.updates=0", "sft.steps=3", source="first")
    third = run(tmp_path, "third", source="second")
    assert [cfg.name for cfg in ancestors(third)] == ["second", "first"]


@pytest.mark.parametrize("path", ["{}/model", "{}/gone/checkpoints/ppo", "owner/name"])
def test_other_models_come_from_no_run(tmp_path, path):
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text("architectures: [Llama]")
    cfg = load("gp_l_debug", [f"model.path={path.format(tmp_path)}"])
    assert list(ancestors(cfg)) == []


def test_a_circle_ends(tmp_path):
    run(tmp_path, "one", source="two")
    two = run(tmp_path, "two", source="one")
    assert [cfg.name for cfg in ancestors(two)] == ["one", "two"]


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    run(tmp_path, "one")
    (tmp_path / "one" / "config.yaml").write_text("nmae: x")
    with pytest.raises(ConfigError, match=r"one/config.yaml, which cannot be read: .*nmae"):
        list(ancestors(run(tmp_path, "two", source="one")))


@pytest.mark.parametrize(
    ("before", "phase"),
    [
        (["sft.steps=1", "ppo.updates=0", "seed=500"], "sft"),
        (["sft.steps=0", "ppo.updates=3", "seed=0"], "ppo"),
    ],
)
def test_an_evaluation_does_not_play_what_a_run_before_was_trained_on(tmp_path, before, phase):
    first = run(tmp_path, "first", *before)
    seed = {"sft": first.seed, "ppo": first.seed * 10**9 + 10**7}[phase]
    keys = ["sft.steps=0", "ppo.updates=3", "seed=1"]
    low = f"eval.seed={seed - load('gp_l_debug').eval.episodes + 1}"
    with pytest.raises(ConfigError, match=rf"eval.seed=.* and {phase} of run first, which"):
        check_ancestors(run(tmp_path, "second", *keys, low, source="first"))
    free = f"eval.seed={seed - load('gp_l_debug').eval.episodes}"
    check_ancestors(run(tmp_path, "third", *keys, free, source="first"))
