"""The published figures are those of the paper's abstracted tables."""

from __future__ import annotations

from report.study.published import TABLE, VERIFY


def test_rl_gains_and_sft_loses_in_every_published_row() -> None:
    assert len(TABLE) == 6
    assert all(row.sft < row.start < row.rl for row in TABLE)
    assert list(VERIFY) == sorted(VERIFY) == [1, 3, 5, 10]
    assert list(VERIFY.values()) == sorted(VERIFY.values())
