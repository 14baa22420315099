"""Model families: a few here, all in the slow test, against the table of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError, field_validator

from configs.model_claims import UNSYNCED, UNTRAINED
from configs.paths import ROOT
from learner.batch import Sequence
from learner.engine import TrainingEngine
from learner.sft import sft_step
from learner.training_trajectory import split_scores
from rollout import engine as inference
from rollout.bucket import pack
from rollout.engine import InferenceEngine
from rollout.engine_settings import EngineSettings
from tests.conftest import Loop
from tests.support.families import Family, families, given_up, save_tiny
from tests.support.family_table import (
    PAGE,
    STEPS,
    Row,
    _innermost,
    _why,
    kind,
    learn,
    settings,
    table,
    title,
)
from tests.support.learner import demonstrations

FEW = [  # one of each kind
    Family("llama", "LlamaForCausalLM", vision=False),
    Family("mixtral", "MixtralForCausalLM", vision=False),  # experts, merged
    Family("glm4_moe", "Glm4MoeForCausalLM", vision=False),  # a router with a buffer
    Family("lfm2", "Lfm2ForCausalLM", vision=False),  # convolutions between attention
    Family("mamba", "MambaForCausalLM", vision=False),  # no positions
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", vision=True),  # three dimensions
]

BIASED = Family("qwen2", "Qwen2ForCausalLM", vision=False)  # in its attention


def cells(row: Row) -> list[str]:
    return [getattr(row, column) for column in (*STEPS, "syncs")]


def key(family: Family) -> str:
    return title(family.model_type, family.vision)


@pytest.mark.parametrize("family", FEW, ids=key)
def test_it_is_as_the_table_says(family, tmp_path):
    row = learn(family, tmp_path)
    assert (row.loads, row.trains, row.exports) == ("yes", "yes", "yes")
    assert cells(row)[:4] == table(PAGE.read_text())[key(family)][:4]


def test_a_leaking_packing_that_was_asked_for_is_refused(tmp_path):
    folder = save_tiny(FEW[3], tmp_path)
    cfg = settings()
    cfg = replace(cfg, learner=replace(cfg.learner, packing="packed"))
    with pytest.raises(ValueError, match=r"learner\.packing=packed: .* in Lfm2ForCausalLM by"):
        TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)


def test_a_model_that_reads_ahead_is_refused(tmp_path):
    folder = save_tiny(Family("paligemma", "PaliGemmaForConditionalGeneration", True), tmp_path)
    cfg = settings()
    sentence = r"PaliGemmaForConditionalGeneration cannot be trained: .* is not causal"
    with pytest.raises(ValueError, match=sentence):
        TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)


def test_a_reason_is_that_of_the_innermost_cause():
    class Checked(BaseModel):
        value: int

        @field_validator("value")
        @classmethod
        def refuse(cls, value):
            raise ValueError("a class cannot be read") from ImportError("No module\nof 'that'")

    with pytest.raises(ValidationError) as error:
        Checked(value=1)
    assert _why(_innermost(error.value)) == "No module"
    assert _why(_innermost(KeyError("a/b|c<d"))) == "'a/b/c‹d'"
    assert _why(RuntimeError()) == "RuntimeError"
    assert _why(ValueError("Error in:\n /home/me/x is bad")) == "Error in: the folder is bad"
    assert _why(TypeError("cannot do // of None")) == "cannot do // of None"
    assert len(_why(ValueError("x" * 200))) == 150


def test_families_that_vllm_has_given_up_are_on_the_page():
    past = given_up()
    assert past["bamba"]
    assert not {*past} & {family.model_type for family in families() if not family.vision}
    page = PAGE.read_text()
    assert all(f"{family} (until {last})" in page for family, last in past.items())


def test_families_that_do_not_train_or_sync_are_refused_by_name():
    """See `configs.model_claims.check_class`; others are refused by `learner.trunk.empty_trunk`."""
    page = table(PAGE.read_text())
    classes = {key(family): family.architecture for family in families()}
    rows = {classes[name]: row for name, row in page.items() if name in classes}
    assert {n for n, row in rows.items() if kind(row[-1]) == "no"} == UNSYNCED.keys()
    assert {n for n, row in rows.items() if "forward pass fails" in row[0]} == UNTRAINED.keys()


def test_the_table_has_every_family():
    page = PAGE.read_text()
    unmade = [line[2:].split(": ")[0] for line in page.splitlines() if line.startswith("- ")]
    rows = [name for name in table(page) if name != "family" and not name.startswith("---")]
    assert {key(family) for family in families()} <= {*rows, *unmade}
    assert not {*rows} - {key(family) for family in families()}


@pytest.mark.slow
@pytest.mark.parametrize("family", [FEW[1], BIASED], ids=key)
def test_a_real_engine_samples_from_what_is_published(family, tmp_path, monkeypatch):
    """Log-probabilities of the engine and of the learner agree before and after a training step."""
    arguments = inference.arguments_of
    monkeypatch.setattr(
        inference, "arguments_of", lambda s: arguments(s) | {"skip_tokenizer_init": True}
    )
    folder, cfg = save_tiny(family, tmp_path), settings()
    learner = TrainingEngine(folder, cfg, cfg.sft.optimizer, 2, False)
    started = EngineSettings(str(folder), max_sequences=8, context_tokens=64, kv_cache_gib=0.25)
    loop = Loop()
    engine = loop.run(InferenceEngine.start(started), timeout=600)
    gaps = []
    for version in range(2):
        loop.run(engine.receive(version, [pack(bucket) for bucket in learner.weights(1 << 14)]))
        gaps.append(_parity(loop, engine, learner))
        sft_step(learner, demonstrations(4), cfg.sft)
    stale = _parity(loop, engine, learner)  # the last step was not published
    loop.run(engine.shutdown())
    loop.close()
    assert max(gaps) < 1e-4 < stale, (gaps, stale)


def _parity(loop: Loop, engine: InferenceEngine, learner: TrainingEngine) -> float:
    """Mean absolute difference of the engine's log-probabilities from the learner's."""

    async def answers():
        return await asyncio.gather(
            *(
                engine.generate(list(range(4, 8 + i)), max_tokens=12, temperature=1.0, seed=i)
                for i in range(8)
            )
        )

    sampled = loop.run(answers())
    sequences = [
        Sequence(
            np.array([*a.prompt_ids, *a.token_ids]),
            np.arange(len(a.prompt_ids) + len(a.token_ids)) >= len(a.prompt_ids),
        )
        for a in sampled
    ]
    packed = learner.microbatches(sequences)
    scored, _ = split_scores(packed, learner.score(packed))
    gaps = [np.abs(s - np.array(a.logprobs)) for s, a in zip(scored, sampled, strict=True)]
    return float(np.concatenate(gaps).mean())


@pytest.mark.slow
def test_the_table_is_what_is_measured(tmp_path):
    for step in ("learn", "sync"):
        command = [sys.executable, "-m", "tests.support.family_table", step, str(tmp_path)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=3600)
    rows = [Row(**json.loads(file.read_text())) for file in tmp_path.glob("*/row.json")]
    page = table(PAGE.read_text())
    for row in rows:
        if not row.loads.startswith("no tiny model"):
            measured, written = ([kind(c) for c in cs] for cs in (cells(row), page[row.title]))
            if measured[-1] == "not run" and not find_spec("torchvision"):
                written[-1] = "not run"  # it may need torchvision, which the CPU lock lacks
            assert measured == written, row.title
