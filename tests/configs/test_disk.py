"""What is on the disk when, in which order, and what a full disk leaves."""

from __future__ import annotations

import errno
import os

import pytest

from configs import disk
from configs.disk import replace_file, to_disk


@pytest.fixture
def calls(monkeypatch):
    """Each fsync and replace, in order; `calls.fails` says by name which fsync raises what."""

    class Calls(list):
        fails: dict[str, int] = {}

    made = Calls()

    def fsync(number):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{number}"))
        made.append(("fsync", name.partition(".json.")[0]))
        if name in made.fails:
            raise OSError(made.fails[name], "refused")

    replace = os.replace
    monkeypatch.setattr(disk.os, "fsync", fsync)
    monkeypatch.setattr(
        disk.os, "replace", lambda a, b: (made.append(("replace", b.name)), replace(a, b))
    )
    return made


def test_content_comes_before_the_name_and_the_name_before_the_return(tmp_path, calls):
    file = tmp_path / "status.json"
    file.write_text("before, and longer")
    replace_file(file, "now ü")
    assert calls == [("fsync", "status"), ("replace", "status.json"), ("fsync", tmp_path.name)]
    assert file.read_text("utf-8") == "now ü"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_full_disk_leaves_the_file_as_it_was_and_no_draft(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "status.json"
    file.write_text("before")
    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, "now")
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_the_call_for_folders_is_borne(tmp_path, calls, number):
    calls.fails = {tmp_path.name: number, "file": number}
    (tmp_path / "file").write_text("")
    to_disk(tmp_path)
    with pytest.raises(OSError, match="refused"):
        to_disk(tmp_path / "file")


def test_a_fault_of_the_disk_is_none_of_these(tmp_path, calls):
    calls.fails = {tmp_path.name: errno.EIO}
    with pytest.raises(OSError, match="refused"):
        to_disk(tmp_path)


def test_all_are_closed_again(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    to_disk(tmp_path, tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
