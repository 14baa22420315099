"""What the memory account says of a rank is what one takes."""

import pytest

from benchmarks.memory_settings import ACCOUNT, ON_GPU, parameters
from benchmarks.partitioned_memory import account_of, compare


def test_settings_differ_in_what_the_account_knows():
    assert len(set(ACCOUNT)) == len(ACCOUNT) >= 6
    for name in ("stage", "dtype", "offload", "checkpointing", "lora", "tokens", "vocabulary"):
        assert len({getattr(setting, name) for setting in ACCOUNT}) > 1, name
    for name in ("stage", "dtype", "offload", "checkpointing", "lora"):
        assert len({getattr(setting, name) for setting in ON_GPU}) > 1, name


def test_on_a_gpu_the_account_leaves_out_what_lies_on_the_host(monkeypatch):
    offloaded = next(s for s in ON_GPU if s.offload and s.stage == 1)
    whole = account_of(offloaded)["rest"]
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    there = whole.keys() - account_of(offloaded)["rest"].keys()
    assert there == {"learner optimizer", "step gradients"}


def test_the_account_is_of_the_settings_own_model():
    small, wide = (
        next(setting for setting in ACCOUNT if (setting.size, setting.vocabulary) == sizes)
        for sizes in (("100M", 0), ("20M", 64_000))
    )
    for setting in (small, wide):
        assert account_of(setting)["rest"]["learner weights"] == 4 * parameters(setting)
    assert parameters(small) == 109_529_856


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(ACCOUNT)))
def test_a_ranks_peak_is_within_15_percent_of_the_account(index, tmp_path):
    row = compare(ACCOUNT[index], tmp_path)
    assert 0.85 < row["ratio"] < 1.15, row
