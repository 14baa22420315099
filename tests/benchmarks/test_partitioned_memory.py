"""What the memory account says of a rank is what one takes."""

import pytest

from benchmarks.partitioned_memory import ACCOUNT, account_of, compare


def test_settings_differ_in_what_the_account_knows():
    assert len(set(ACCOUNT)) == len(ACCOUNT) >= 6
    for name in ("stage", "dtype", "checkpointing", "lora", "tokens", "vocabulary"):
        assert len({getattr(setting, name) for setting in ACCOUNT}) > 1, name


def test_the_account_is_of_the_settings_own_model():
    one, two = (account_of(ACCOUNT[i])["rest"]["learner weights"] for i in (0, -1))
    assert one == 4 * 109_529_856
    assert two - one == 4 * 2 * 768 * (64_000 - 16_000)


@pytest.mark.slow
@pytest.mark.parametrize("index", [1, 3, 7])
def test_a_ranks_peak_is_within_15_percent_of_the_account(index, tmp_path):
    row = compare(ACCOUNT[index], tmp_path)
    assert 0.85 < row["ratio"] < 1.15, row
