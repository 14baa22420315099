"""What nvidia-smi says of this machine's GPUs, and what it does not."""

import subprocess

import pytest

from cluster.placement import cards
from cluster.placement.cards import smallest, smallest_card

MIB = 2**20
H100 = "Disabled, 81559\n"


@pytest.mark.parametrize(
    ("answer", "count", "mib"),
    [
        (H100, 1, 81559),
        (H100 * 8, 8, 81559),
        ("[N/A], 49140\n[N/A], 4096\n[N/A], 24564\n", 3, 4096),
        ("[N/A], 49140\n[N/A], 4096\n[N/A], 24564\n", 2, 24564),  # one is the display's
        (H100, 2, None),
        ("", 1, None),
        ("Disabled, [N/A]\n", 1, None),  # one memory with the host's
        (H100 + "Enabled, 81559\n", 2, None),
    ],
)
def test_the_smallest_gpu_that_counts(answer, count, mib):
    assert smallest(answer, count) == (mib and mib * MIB)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """answer(script): an nvidia-smi of this machine."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def answer(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return answer


def test_the_driver_is_asked_for_every_gpus_mebibytes(driver):
    asked = "--query-gpu=mig.mode.current,memory.total --format=csv,noheader,nounits"
    driver(f'[ "$*" = "{asked}" ] && echo "Disabled, 23034" && echo "Disabled, 81559"')
    assert smallest_card(2) == 23034 * MIB
    assert smallest_card(1) == 81559 * MIB


def test_no_answer_is_not_known(driver, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert smallest_card(1) is None
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    driver('echo "Disabled, 81559"; exit 9')  # the driver is another one than the library
    assert smallest_card(1) is None


def test_a_driver_that_hangs_is_given_up(monkeypatch):
    waited = []

    def hang(command, timeout, **options):
        waited.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(cards.subprocess, "run", hang)
    assert smallest_card(1) is None
    assert waited == [cards.ANSWER_S]
