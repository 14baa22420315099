"""The lease of a run folder: one owner, a fencing token, and who may take over when."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from cluster.failures import InUseError
from cluster.run import lease
from cluster.run.lease import Lease, LeaseLost, Owner, Token, refuse_if_owned
from cluster.run.left_processes import process_state
from configs.load import ConfigError


def leave(folder, owner, number=1, age=0.0):
    """A lease as an owner that is gone, or elsewhere, left it."""
    (folder / "lease").mkdir(exist_ok=True)
    file = folder / "lease" / f"{number:06d}.json"
    file.write_text(json.dumps(asdict(owner)))
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.fixture
def elsewhere():
    return replace(Owner.this_process(), host="node-7 pid:[1]")


@pytest.fixture
def quick(monkeypatch):
    """Heartbeats of hundredths of a second; one is waited for as long as ever."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(lease, "LOOK_S", 0.02)


@pytest.fixture
def impatient(quick, monkeypatch):
    """And a heartbeat is waited for no longer than a moment."""
    monkeypatch.setattr(lease, "STALE_S", 0.4)


def test_a_storage_that_is_away_at_the_end_makes_that_no_failure(tmp_path, monkeypatch):
    def rename(file, target):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, Lease(tmp_path):
        patch.setattr(lease.Path, "rename", rename)


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    with Lease(tmp_path) as token:
        for attempt in (Lease, refuse_if_owned):
            with pytest.raises(ConfigError) as error:
                attempt(tmp_path)
            words = f"the run folder is in use by process {os.getpid()} on "
            assert f"{tmp_path}: {words}" in str(error.value)
            assert " UTC; wait until that run has ended, or end it" in str(error.value)
            assert "pid:[" not in str(error.value)
        token.check()
    refuse_if_owned(tmp_path)


def test_a_copy_of_a_folder_in_use_is_free_and_the_folder_stays_its_owners(
    tmp_path, capsys, impatient
):
    """As of a running run that somebody wants to go on with otherwise."""
    run, copy, link = (tmp_path / name for name in ("run", "copy", "link"))
    run.mkdir()
    link.symlink_to(run)
    with Lease(run) as token:
        shutil.copytree(run, copy)
        refuse_if_owned(copy)
        with Lease(copy) as other:
            said = capsys.readouterr().err
            assert f"{copy}: a copy of {run}, which stays that of process {os.getpid()} on" in said
            assert (other.folder, other.number) == (str(copy), 2)
            other.check()
            for same in (run, link, copy):
                with pytest.raises(ConfigError, match="in use by process"):
                    Lease(same)
        token.check()
        moved = tmp_path / "moved"
        run.rename(moved)
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(moved)
        shutil.copytree(moved, run)  # the owner's path, and no more than that
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(run)
        shutil.rmtree(run)
        moved.rename(run)


def test_one_folder_by_another_inode_is_no_copy_while_its_owners_heartbeat_is_seen_there(
    tmp_path, monkeypatch, quick
):
    """As of mounts that number their files themselves: gcsfuse, sshfs."""
    monkeypatch.setattr(lease, "_is_copy", lambda *_: True)
    with Lease(tmp_path) as token:
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(tmp_path)
        token.check()


def test_another_folder_at_the_owners_path_makes_no_copy(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
    leave(run, replace(Owner.this_process(), folder=str(other)))
    leave(other, replace(Owner.this_process(), folder=str(other), since="earlier"))
    with pytest.raises(ConfigError, match="in use by process"):
        Lease(run)


def test_two_mounts_of_one_storage_are_one_folder(tmp_path, monkeypatch):
    """Their files have other devices, and the same inodes."""
    run, mount = tmp_path / "run", tmp_path / "mount"
    (mount / "lease").mkdir(parents=True)
    run.mkdir()
    with Lease(run):
        os.link(run / "lease" / "000001.json", mount / "lease" / "000001.json")
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(mount)


def test_a_lease_of_before_there_were_copies_is_read(tmp_path):
    owner = asdict(Owner.this_process())
    del owner["folder"], owner["nonce"]
    leave(tmp_path, Owner.this_process()).write_text(json.dumps(owner))
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        Lease(tmp_path)


def test_the_token_goes_up_with_each_owner_also_after_a_good_end(tmp_path):
    numbers = []
    for _ in range(3):
        with Lease(tmp_path) as token:
            numbers.append(token.number)
    assert numbers == [1, 2, 3]
    assert [file.name for file in (tmp_path / "lease").iterdir()] == ["000003.ended"]


def test_nobody_owns_a_folder_without_a_lease(tmp_path):
    refuse_if_owned(tmp_path)
    refuse_if_owned(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    refuse_if_owned(tmp_path / "file")


def test_a_dead_owner_of_this_machine_is_taken_over_with_a_word(tmp_path, capsys):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(tmp_path, replace(Owner.this_process(), pid=dead.pid), number=4)
    with Lease(tmp_path) as token:
        assert token.number == 5
    said = capsys.readouterr().err
    assert f"{tmp_path}: taken over from process {dead.pid} on " in said
    assert "which has ended" in said


def test_the_processes_of_a_dead_owner_are_gone_before_its_folder_is_taken(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(lease, "end_left", lambda *process: asked.append(process))
    with Lease(tmp_path) as token:
        with pytest.raises(InUseError):
            refuse_if_owned(tmp_path)
        assert asked == []  # it lives
        token.check()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(tmp_path, replace(Owner.this_process(), pid=dead.pid, started=77), number=4)
    refuse_if_owned(tmp_path)
    assert asked == [(dead.pid, 77)]
    leave(tmp_path, replace(Owner.this_process(), host="another", pid=dead.pid), 5, age=100)
    refuse_if_owned(tmp_path)
    assert len(asked) == 1  # its process ids mean nothing here


def test_another_process_with_the_same_id_is_not_the_owner(tmp_path):
    leave(tmp_path, replace(Owner.this_process(), started=1))
    with Lease(tmp_path) as token:
        assert token.number == 2


def test_a_clock_that_is_set_ends_no_owner(tmp_path, monkeypatch):
    """The start that psutil gives moves with the clock: it is the boot's time of day plus ticks."""
    with Lease(tmp_path):
        boot = psutil._pslinux.boot_time
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot() + 2)
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(tmp_path)


def test_another_machine_of_the_same_name_is_another_host(tmp_path, monkeypatch, quick):
    """The first pid namespace has the same inode on every machine; a boot has an id of its own."""
    assert os.readlink("/proc/self/ns/pid") in lease._host()  # of containers on one machine
    with Lease(tmp_path):
        read = lease.Path.read_text

        def other_boot(path, *args, **kwargs):
            return "another\n" if path.name == "boot_id" else read(path, *args, **kwargs)

        monkeypatch.setattr(lease.Path, "read_text", other_boot)
        _, owner = lease._newest(tmp_path)
        assert replace(owner, pid=4194303).lives() is None
        with pytest.raises(ConfigError, match="in use by process"):
            Lease(tmp_path)  # it has no such process, and hears its heartbeat


@pytest.mark.parametrize(
    "written",
    ['{"host": "h x", "pid": 1, "started": 1, "since": "x", "more": 1}', '{"pid": 7}', "[]"],
)
def test_an_owner_of_another_version_is_told_by_its_heartbeat(
    tmp_path, impatient, monkeypatch, written
):
    (tmp_path / "lease").mkdir()
    file = tmp_path / "lease" / "000003.json"
    file.write_text(written.replace("h x", f"h{lease._host()[len(socket.gethostname()) :]}"))
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "h")
    _, owner = lease._newest(tmp_path)
    assert owner.lives() is None
    assert str(owner) in (
        "process 1 on h since x",
        "process 7 on unknown since an unknown time",
        "process 0 on unknown since an unknown time",
    )
    os.utime(file, (time.time() - 30,) * 2)
    with Lease(tmp_path) as token:
        assert token.number == 4


def test_the_clock_probe_of_another_stays(tmp_path):
    (tmp_path / "lease").mkdir()
    probe = tmp_path / "lease" / "abc.clock"
    probe.touch()
    (tmp_path / "lease" / "000001.ended").touch()
    with Lease(tmp_path):
        assert sorted(os.listdir(probe.parent)) == ["000002.json", "abc.clock"]


def test_a_zombie_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    started = process_state(child.pid)[1]
    owner = replace(Owner.this_process(), pid=child.pid, started=started)
    deadline = time.monotonic() + 120
    while owner.lives() and time.monotonic() < deadline:
        time.sleep(0.02)  # it ends, and nobody has waited for it
    assert owner.lives() is False
    child.wait()


def test_an_owner_elsewhere_that_beats_is_refused(tmp_path, elsewhere, quick, capsys):
    file = leave(tmp_path, elsewhere)
    ended = []

    def beat():
        while not ended:
            os.utime(file)
            time.sleep(0.05)

    thread = lease.threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"in use by process \d+ on node-7 since"):
            Lease(tmp_path)
    finally:
        ended.append(True)
        thread.join()
    assert "waiting for a heartbeat of process" in capsys.readouterr().err


def test_one_elsewhere_that_has_no_heartbeat_is_waited_for_and_taken_over(
    tmp_path, elsewhere, impatient
):
    leave(tmp_path, elsewhere)
    begin = time.monotonic()
    with Lease(tmp_path) as token:
        assert token.number == 2
    assert time.monotonic() - begin >= 0.4


def test_one_that_was_silent_for_long_is_not_waited_for(tmp_path, elsewhere):
    leave(tmp_path, elsewhere, age=lease.STALE_S + 30)
    begin = time.monotonic()
    with Lease(tmp_path) as token:
        assert token.number == 2
    assert time.monotonic() - begin < lease.STALE_S


def test_the_heart_of_an_owner_beats(tmp_path, quick):
    with Lease(tmp_path):
        file = tmp_path / "lease" / "000001.json"
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 120
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_a_writer_whose_lease_was_taken_over_writes_nothing_more(tmp_path, elsewhere):
    with Lease(tmp_path) as token:
        token.check()
        leave(tmp_path, replace(elsewhere, nonce="theirs"), number=2)
        with pytest.raises(LeaseLost) as error:
            token.check()
        assert "another run has taken this run folder (process " in str(error.value)
        assert "on node-7 since" in str(error.value)
        assert "this one writes nothing more to it" in str(error.value)
    Token(str(tmp_path), 2, "theirs").check()  # the end of the first left the second's lease alone
    (tmp_path / "lease" / "000002.json").rename(tmp_path / "lease" / "000002.ended")
    with pytest.raises(LeaseLost, match="this run folder; this one"):
        token.check()


def test_a_writer_of_a_run_that_has_ended_writes_nothing_more(tmp_path):
    with Lease(tmp_path) as token:
        token.check()
    with pytest.raises(LeaseLost, match=f"^{tmp_path}: the run has ended; nothing more is written"):
        token.check()


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Lease(folder) as token:
        shutil.rmtree(folder)
        with pytest.raises(LeaseLost, match="the run folder was deleted or moved while"):
            token.check()
    assert not folder.exists()


def test_a_lease_without_words_is_of_one_that_died(tmp_path, quick):
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "000003.json").write_text("")
    with Lease(tmp_path) as token:
        assert token.number == 4


def _take(folder, begin, answers, end):
    begin.wait()
    try:
        with Lease(folder):
            answers.put("taken")
            end.wait()
    except ConfigError:
        answers.put("refused")


def test_of_many_at_once_one_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_S", 5.0)  # for one that stands still before it writes its name
    processes = multiprocessing.get_context("fork")
    begin, end, answers = processes.Event(), processes.Event(), processes.Queue()
    arguments = (tmp_path, begin, answers, end)
    all_of_them = [processes.Process(target=_take, args=arguments) for _ in "1234"]
    for process in all_of_them:
        process.start()
    begin.set()
    try:
        said = sorted(answers.get(timeout=120) for _ in all_of_them)
    finally:
        end.set()
        for process in all_of_them:
            process.join(120)
    assert said == ["refused"] * 3 + ["taken"]


def test_a_stopped_owner_keeps_its_folder(tmp_path):
    code = "import time; print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        started = process_state(child.pid)[1]
        leave(tmp_path, replace(Owner.this_process(), pid=child.pid, started=started), age=1000)
        with pytest.raises(ConfigError, match=f"in use by process {child.pid}"):
            Lease(tmp_path)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
