"""Copies of a state in host memory, and what comes back of them."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import random
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learner import snapshot
from learner.snapshot import (
    DamagedState,
    HostFiles,
    load_random_state,
    random_files,
    ranks_of,
    read_file,
    resharded_files,
    saved_files,
    snapshot_bytes,
    write_file,
)


def through_files(snapshot):
    """open_file of what the snapshot's files hold."""
    written = {}
    for name, content in snapshot.items():
        stream = io.BytesIO()
        write_file(stream, content)
        written[name] = stream.getvalue()
    return lambda name: io.BytesIO(written[name])


def test_what_training_changes_later_is_not_in_the_copy():
    files, weight = HostFiles("/x"), torch.ones(3)
    state = OrderedDict(weight=weight, deep=[{"again": weight}, (weight[:1], 2.5, "name")])
    files.save(state, "/x/state/model.pt")
    weight.add_(1.0)
    (saved,) = files.saved.values()
    assert [*files.saved] == ["state/model.pt"]
    assert saved["weight"].tolist() == [1.0, 1.0, 1.0]
    assert type(saved) is OrderedDict
    tensor, number, name = saved["deep"][1]
    assert (tensor.tolist(), number, name) == ([1.0], 2.5, "name")


def test_tied_weights_are_copied_once_and_counted_once():
    files, weight = HostFiles("/x"), torch.zeros(4, 4)
    files.save({"input": weight, "head": weight, "view": weight[0]}, "/x/a.pt")
    saved = files.saved["a.pt"]
    assert saved["input"] is saved["head"]
    assert saved["input"] is not weight
    assert snapshot_bytes(files.saved) == 64 + 16


def test_two_files_share_no_copy():
    """A tensor that was freed between them may have left its address to another."""
    files, weight = HostFiles("/x"), torch.zeros(4)
    files.save({"w": weight}, "/x/a.pt")
    weight.add_(1.0)
    files.save({"w": weight}, "/x/b.pt")
    assert files.saved["a.pt"]["w"].tolist() == [0.0] * 4
    assert files.saved["b.pt"]["w"].tolist() == [1.0] * 4


def test_files_give_back_what_was_saved():
    files = HostFiles("/x")
    files.save({"w": torch.arange(3.0), "step": 7}, "/x/a.pt")
    back = read_file(through_files(files.saved), "a.pt")
    assert (back["w"].tolist(), back["step"]) == ([0.0, 1.0, 2.0], 7)
    again = HostFiles("/y", through_files(files.saved)).load("/y/a.pt")
    assert again["step"] == 7


def draws():
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_every_generator_goes_on_where_it_was():
    np.random.standard_normal()  # leaves a cached draw
    snapshot = random_files()
    expected = draws()
    assert draws() != expected
    load_random_state([*snapshot], through_files(snapshot))
    assert draws() == expected


def test_the_generators_of_a_new_rank_stay_as_they_are():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_random_state(["random-00007.pt"], lambda name: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_ranks_of_a_state_are_counted_by_its_files():
    names = ["state/a.pt", "random-00000.pt", "random-00001.pt"]
    assert ranks_of(names) == 2


class Hostile:
    """What a state must not hold: reading it would call a function."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_a_state_that_would_run_code_is_not_read(tmp_path):
    state = {"w": torch.zeros(2), "more": Hostile(tmp_path / "trace")}
    files = through_files({"state/model.pt": state})
    for read in (lambda: read_file(files, "state/model.pt"), lambda: convert(files)):
        with pytest.raises(ValueError, match=r"state/model.pt of .* holds .*\.mkdir, which"):
            read()
    assert not (tmp_path / "trace").exists()


def damaged(change):
    """A file of a state after a fault of a disk."""
    stream = io.BytesIO()
    write_file(stream, {"w": torch.arange(1000.0), "steps": 3})
    content = change(stream.getvalue())
    return lambda name: io.BytesIO(content)


def flipped(content, place):
    """With one bit changed, as of a disk that does not notice."""
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]


def tensor_bytes(content):
    """Where the values of `w` are: its last ones are the floats up to 999."""
    return content.index(torch.arange(1000.0).numpy().tobytes())


def test_a_changed_bit_of_a_tensor_is_damage():
    """Torch's own reader would give other weights, and say nothing."""
    for offset in range(0, 4000, 397):
        files = damaged(lambda content, o=offset: flipped(content, tensor_bytes(content) + o))
        with pytest.raises(DamagedState, match=r"/data/0 in it is not what was written$"):
            read_file(files, "state/model.pt")


def test_a_hole_in_a_tensor_is_damage():
    def change(content):
        begin = tensor_bytes(content)
        return content[: begin + 512] + bytes(2048) + content[begin + 2560 :]

    with pytest.raises(DamagedState, match="is not what was written"):
        read_file(damaged(change), "state/model.pt")


def test_any_changed_byte_of_the_pickle_is_damage():
    """Its readers raise all kinds of errors, or none."""
    whole = io.BytesIO()
    write_file(whole, {"w": torch.arange(1000.0), "steps": 3})
    begin = whole.getvalue().index(b"ctorch._utils")
    for place in range(begin, begin + 60):
        with pytest.raises(DamagedState):
            read_file(damaged(lambda content, p=place: flipped(content, p)), "state/model.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"no state at all",
        lambda content: b"\0" * len(content),
    ],
)
def test_a_damaged_file_is_told_from_one_that_is_refused(change):
    files = damaged(change)
    with pytest.raises(DamagedState, match=r"^state/model.pt of the last checkpoint cannot be rea"):
        read_file(files, "state/model.pt")


@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 0.6, 1.0])
def test_what_the_file_system_says_is_no_damage_wherever_in_the_file_it_says_it(tmp_path, place):
    """Else a storage that is away a moment would cost a state: torch's readers hide the error."""
    file = tmp_path / "a.pt"
    torch.save({"a": torch.ones(300_000), "b": torch.ones(300_000)}, file)
    bad = int(place * (file.stat().st_size - 1))

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() <= bad < self.tell() + len(buffer):
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(buffer)

    with pytest.raises(OSError, match="Input/output error"):
        read_file(lambda name: io.BufferedReader(Failing(file)), "a.pt")
    bad = -1
    assert read_file(lambda name: io.BufferedReader(Failing(file)), "a.pt")["b"].sum() == 300_000


def test_a_full_memory_is_no_damage(monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match=r"^DefaultCPUAllocator"):
        read_file(damaged(bytes), "state/model.pt")


def test_nodes_that_share_their_temporary_folder_make_a_folder_each(monkeypatch):
    """Else one waits for the lock that the other holds until both have come."""
    others = iter(["node b", "node c"])
    gathered = []

    def all_gather(own):
        gathered.append(own)
        return [(next(others), "other"), own, own]

    monkeypatch.setattr(snapshot.distributed, "all_gather", all_gather)
    first, second = snapshot._name_of_node(), snapshot._name_of_node()
    assert [first, second] == [name for _, name in gathered]
    assert first != second
    assert gathered[0][0] == gathered[1][0]
    monkeypatch.setattr(snapshot.distributed, "all_gather", lambda own: [(own[0], "0"), own])
    assert snapshot._name_of_node() == "0", "the ranks of a node have the name of its first"


def convert(files):
    with resharded_files(["state/model.pt"], files, "state", ["w", "b"], lambda options: None):
        pass


def model_state(name, **more):
    """A file of DeepSpeed's with a name in each place that its conversion makes paths of."""
    shapes = [OrderedDict({"w": torch.Size([2])}), OrderedDict({name: torch.Size([1])})]
    optimizer = {"param_slice_mappings": [OrderedDict(w=1), OrderedDict({name: 2})]}
    return [
        {"module": {"w": torch.zeros(2), name: torch.zeros(1)}} | more,
        {"module": {"b": torch.zeros(1)}, "param_shapes": shapes} | more,
        {"param_shapes": {name: torch.Size([1])}} | more,
        {"optimizer_state_dict": optimizer} | more,
    ]


@pytest.mark.parametrize("name", ["/tmp/evil", "../../evil", "another"])
@pytest.mark.parametrize("place", range(4))
def test_a_state_that_names_what_the_model_has_not_is_not_converted(name, place):
    """DeepSpeed would write to these paths, and unpickle whatever lies there."""
    files = through_files({"state/model.pt": model_state(name)[place]})
    rule = rf"^state/model.pt of the last checkpoint names {name}, which is no parameter of"
    with pytest.raises(ValueError, match=rule):
        convert(files)


def test_a_state_of_the_model_is_converted():
    for content in model_state("b", ds_autoep_layers=None):
        convert(through_files({"state/model.pt": content}))


@pytest.mark.parametrize("key", ["ds_autoep_layers", "autoep_layers"])
def test_a_state_of_expert_layers_is_not_converted(key):
    files = through_files({"state/model.pt": {key: [{"expert_key_prefix": "/tmp/evil"}]}})
    with pytest.raises(ValueError, match=f"names {key}, which is no parameter"):
        convert(files)


@pytest.mark.parametrize("short", [True, False])
def test_a_conversion_that_would_fill_the_temporary_folder_is_refused(tmp_path, monkeypatch, short):
    """DeepSpeed's copies are made beside the state's own. The folder and both figures are named."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    contents = {"state/model.pt": model_state("b")[0], "random-00000.pt": {"torch": torch.ones(9)}}
    files = through_files(contents)
    size = sum(len(files(name).read()) for name in contents)
    asked = []

    def disk_usage(folder):
        asked.append(folder)
        return SimpleNamespace(free=3 * size - short * size // 100)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    monkeypatch.setattr("learner.snapshot.GIB", size)  # to show fractions of it
    opened = resharded_files(list(contents), files, "state", ["w", "b"], lambda options: None)
    if not short:
        with opened as (folder, _):
            assert folder.startswith(f"{tmp_path}/")
    else:
        rule = f"takes up to 3.00 GiB in {tmp_path}, and 2.99 GiB are free; make room"
        with pytest.raises(ValueError, match=rule), opened:
            pass
    assert asked == [str(tmp_path)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../up.pt", "state/../../up.pt", "/up.pt"])
def test_no_file_of_a_state_leaves_its_folder(name):
    """As the names of an object store may."""
    files = through_files({name: {}})
    rule = rf"^the last checkpoint holds {name}; its files must lie in its own folder$"
    with pytest.raises(ValueError, match=rule), saved_files([name], files):
        pass
    with pytest.raises(ValueError, match=rule), resharded_files([name], files, "state", [], None):
        pass


def test_a_folder_that_a_killed_rank_has_left_goes_and_one_in_use_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, held, other = (tmp_path / name for name in ("cardinal-state-a", "cardinal-state-b", "c"))
    for folder in (left, held, other):
        folder.mkdir()
        (folder / "file").touch()
    number = os.open(held, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    files = through_files({"state/model.pt": model_state("b")[0]})
    with resharded_files(["state/model.pt"], files, "state", ["w", "b"], lambda options: None):
        present = {path.name for path in tmp_path.iterdir()} - {"cardinal-state-b", "c"}
        (own,) = present
        assert own.startswith("cardinal-state-")
        again = os.open(tmp_path / own, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
    os.close(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "cardinal-state-b"]
    assert (held / "file").exists()
