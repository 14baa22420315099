"""Deadlines by the size of the model."""

from __future__ import annotations

from dataclasses import asdict

from cluster.deadlines import for_model
from configs.contradictions import contradictions
from tests.support.learner import config


def test_a_large_model_has_the_time_that_its_weights_take(tmp_path):
    for name, gib in (
        ("model-00001-of-00002.safetensors", 100),
        ("model-00002-of-00002.safetensors", 40),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(gib * 2**30)  # no block of it is on the disk
    (tmp_path / "tokenizer.json").write_text("x" * 1000)
    cfg = config()
    before, after = asdict(cfg.cluster), asdict(for_model(cfg, str(tmp_path)).cluster)
    longer = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert longer == dict.fromkeys(
        ("start_deadline_s", "block_deadline_s", "sync_deadline_s"), 560.0
    )
    assert list(contradictions(for_model(cfg, str(tmp_path)))) == list(contradictions(cfg))


def test_runs_of_a_tiny_model_go_on_sharing_their_engines(tmp_path):
    """Whatever bytes a checkpoint's header or its value head has more."""
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10**6)
    with (tmp_path / "value_head.safetensors").open("wb") as file:
        file.truncate(2**30)
    assert for_model(config(), str(tmp_path)) == config()
