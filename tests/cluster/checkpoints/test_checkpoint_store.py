"""Places of states: folders and URIs behave alike, and each error names the place."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import uuid4

import pytest

from cluster.checkpoints import checkpoint_store
from cluster.checkpoints.checkpoint_store import (
    STATE_NAME,
    CheckpointStore,
    check_place,
    state_name,
    state_place,
)
from cluster.checkpoints.cursor import Cursor, cursor_file
from configs.load import ConfigError, load


@pytest.fixture(params=["folder", "file", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    return str(tmp_path / "states") if request.param == "folder" else f"file://{tmp_path}/states"


@pytest.fixture(scope="module")
def s3():
    """A bucket on a local server, as s3://…; the query comes with the place."""
    pytest.importorskip("moto")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-1"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in names.items():
            environment.setenv(name, value)
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(
            Bucket="runs", CreateBucketConfiguration={"LocationConstraint": "eu-1"}
        )
        yield "s3://runs"
    server.stop()


def write(store, state, name, text):
    with store.create(state, name) as stream:
        stream.write(text.encode())


def read(store, state, name):
    with store.open(state, name) as stream:
        return stream.read().decode()


def test_states_are_written_read_listed_and_removed(place):
    store = CheckpointStore(place)
    for state in ("sft-1", "sft-2", "sft-3"):
        write(store, state, "state/rank-0.pt", state)
        write(store, state, "random.pt", "r")
    write(store, "sft-3", "random.pt", "again")
    assert store.names("sft-3") == ["random.pt", "state/rank-0.pt"]
    assert read(store, "sft-3", "random.pt") == "again"
    assert read(store, "sft-2", "state/rank-0.pt") == "sft-2"
    store.remove("sft-2")
    store.remove("sft-2")
    assert store.names("sft-2") == []


def test_whether_a_file_can_be_read_to_its_end_is_known(place, tmp_path, monkeypatch):
    store = CheckpointStore(place)
    write(store, "sft-1", "a.pt", "x" * 40)
    monkeypatch.setattr(checkpoint_store, "PIECE", 16)
    assert store.reads("sft-1", "a.pt")
    assert not store.reads("sft-1", "b.pt")
    if not place.startswith("s3:"):
        (tmp_path / "states" / "sft-1" / "c.pt").symlink_to("/proc/self/mem")  # opens, and no more
        store.open("sft-1", "c.pt").close()
        assert not store.reads("sft-1", "c.pt")


def test_what_is_no_state_is_never_removed(place):
    """As what else a user keeps in the folder that he has named."""
    store, states = CheckpointStore(place), ["sft-000001-00ab", "ppo-1000000e-9f3c"]
    others = ["sft-1", "ppo-000002-data", "my-sft-000001-00ab", "model", "sft-000001-00abc"]
    for folder in states + others:
        write(store, folder, "a.pt", "x")
    write(store, ".", "ppo-000004-00ab", "a file")
    store.keep(["ppo-000003-1234", states[1]])
    assert store.entries() == sorted([*others, states[1], "ppo-000004-00ab"])
    store.keep([])
    assert store.entries() == sorted([*others, "ppo-000004-00ab"])


@pytest.mark.parametrize("unevaluated", [False, True])
@pytest.mark.parametrize("cursor", [Cursor("sft", step=7), Cursor("ppo", update=12345678)])
def test_a_state_is_known_by_its_name(cursor, unevaluated):
    name = state_name(replace(cursor, unevaluated=unevaluated), "0f3c")
    assert STATE_NAME.fullmatch(name)


def test_a_state_that_is_being_written_does_not_count(place):
    store = CheckpointStore(place)
    state = "sft-000009-00ab"
    with suppress(ValueError), store.create(state, "part.pt") as stream:
        stream.write(b"x")
        raise ValueError("broken")
    store.keep([])
    assert store.names(state) == []


def test_free_bytes_are_known_of_a_folder_alone(place):
    free = CheckpointStore(place).free_bytes()
    assert (free is None) == place.startswith("s3:")
    assert free is None or free > 0


def run(folder, root):
    cfg = load("gp_l_debug", [f"name={folder.name}", f"learner.checkpoint_root={root}"])
    folder.mkdir(parents=True, exist_ok=True)
    return cfg, folder


def save(run, state):
    """The run's state and its cursor."""
    write(CheckpointStore(state_place(*run)), state, "a.pt", "x")
    Cursor("ppo", update=1, state=state).save(run[1] / "checkpoints", keep=1)


def test_a_place_belongs_to_the_run_that_took_it(place, tmp_path):
    mine, another = run(tmp_path / "one", place), run(tmp_path / "elsewhere" / "one", place)
    check_place(*mine)
    check_place(*mine, take=True)
    check_place(*mine, take=True)  # a resume
    save(mine, "ppo-000001-00ab")
    check_place(*mine, take=True)
    refused = f"{place}/one holds the states of the run {mine[1]}; choose another name or another "
    with pytest.raises(ConfigError, match=rf"{refused}place$"):
        check_place(*another, take=True)
    shutil.rmtree(mine[1])
    mine[1].mkdir()  # a new run, of the same name
    with pytest.raises(ConfigError, match=rf"{refused}place$"):
        check_place(*mine, take=True)


def test_a_copy_of_a_run_has_no_right_to_its_states(place, tmp_path):
    """It would remove those that the run has saved since."""
    mine, copy = run(tmp_path / "one", place), tmp_path / "elsewhere" / "one"
    check_place(*mine, take=True)
    save(mine, "ppo-000001-00ab")
    shutil.copytree(mine[1], copy)
    moved = rf"for a copy of it, or, if it was moved to {copy}, remove {place}/one/run.txt$"
    with pytest.raises(ConfigError, match=moved):
        check_place(mine[0], copy, take=True)
    check_place(*mine, take=True)


def test_a_run_that_was_moved_takes_its_place_along_by_hand(tmp_path):
    mine, moved = run(tmp_path / "one", tmp_path / "states"), tmp_path / "elsewhere" / "one"
    check_place(*mine, take=True)
    save(mine, "ppo-000001-00ab")
    moved.parent.mkdir()
    mine[1].rename(moved)
    (tmp_path / "states" / "one" / "run.txt").unlink()
    check_place(mine[0], moved)
    check_place(mine[0], moved, take=True)
    check_place(mine[0], moved, take=True)


def test_a_place_that_has_lost_the_last_state_is_named(place, tmp_path):
    mine = run(tmp_path / "one", place)
    check_place(*mine, take=True)
    Cursor("ppo", update=2, state="ppo-000002-00ab").save(mine[1] / "checkpoints", keep=1)
    with pytest.raises(ConfigError, match=f"{place}/one does not hold ppo-000002-00ab, the run's"):
        check_place(*mine)


def test_a_place_that_holds_what_is_no_runs_is_refused(place, tmp_path):
    mine = run(tmp_path / "one", place)
    write(CheckpointStore(state_place(*mine)), "thesis", "chapter.tex", "x")
    for take in (False, True):
        with pytest.raises(ConfigError, match=f"{place}/one holds thesis, which is not this run's"):
            check_place(*mine, take=take)


@pytest.mark.parametrize("place", ["runs", "runs/one", "", "file://", "link"])
def test_a_place_that_meets_the_run_folder_is_refused(tmp_path, place):
    """Its name is added: runs/one, the run folder; runs/one/one, in it; one, which holds it."""
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    roots = {"": tmp_path / "one", "file://": f"file://{tmp_path}/runs"}
    mine = run(tmp_path / "runs" / "one", "/unused")
    if place == "":
        mine = run(tmp_path / "one" / "runs" / "one", "/unused")
        roots[""] = tmp_path
    cfg, folder = run(mine[1], roots.get(place, tmp_path / place))
    with pytest.raises(ConfigError, match=f"one meets the run folder {folder}; it must lie apart"):
        check_place(cfg, folder, take=True)
    assert list(folder.iterdir()) == []
    check_place(run(folder, tmp_path / "states")[0], folder, take=True)


def test_without_a_root_states_are_in_the_run_folder(tmp_path):
    cfg = load("gp_l_debug", ["name=one"])
    assert state_place(cfg, tmp_path) == f"{tmp_path}/checkpoints/state"
    check_place(cfg, tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("lost", ["gone", "empty", "a broken link"])
def test_a_run_that_has_lost_its_cursor_does_not_begin_anew(tmp_path, apart, lost):
    """It would remove the states that the cursor named."""
    cfg, folder = run(tmp_path / "one", tmp_path / "states")
    if not apart:
        cfg = replace(cfg, learner=replace(cfg.learner, checkpoint_root=None))
    check_place(cfg, folder, take=True)
    store = CheckpointStore(state_place(cfg, folder))
    write(store, "ppo-000004-00ab", "a.pt", "x")
    check_place(cfg, folder, take=True)  # killed while its first state was written
    file = cursor_file(folder / "checkpoints")
    file.unlink()
    if lost == "empty":
        file.write_text("{}")
    elif lost == "a broken link":
        file.symlink_to(tmp_path / "nowhere")
    words = rf"{store.place} holds ppo-000004-00ab, and {file}, which says .* is gone: put it back"
    for take in (False, True):
        with pytest.raises(ConfigError, match=words):
            check_place(cfg, folder, take=take)
    store.remove("ppo-000004-00ab")
    check_place(cfg, folder)


def test_the_runs_name_comes_before_a_uris_options(tmp_path):
    cfg, folder = run(tmp_path / "one", "s3://b/c/?region=eu-1&scheme=http")
    assert state_place(cfg, folder) == "s3://b/c/one?region=eu-1&scheme=http"


@pytest.mark.parametrize(
    "name", ["run", "%2E%2E%2Fescaped", "a#b", "a?b", "ä b", "back\\slash", "100%"]
)
@pytest.mark.parametrize("root", ["{}", "file://{}", "{}/what?x"])
def test_states_lie_in_the_folder_of_the_runs_own_name(tmp_path, name, root):
    """Not outside of the place, nor in another run's."""
    cfg = replace(load("gp_l_debug"), name=name)
    cfg = replace(cfg, learner=replace(cfg.learner, checkpoint_root=root.format(tmp_path)))
    write(CheckpointStore(state_place(cfg, tmp_path / "runs")), "sft-000001-00ab", "a.pt", "x")
    within = tmp_path / "what?x" if root.endswith("?x") else tmp_path
    assert (within / name / "sft-000001-00ab" / "a.pt").is_file()


def test_an_error_does_not_repeat_a_places_options():
    with pytest.raises(ConfigError) as error:
        CheckpointStore("foo://x/y?sas=SECRET")
    assert "SECRET" not in str(error.value).partition("cannot be opened")[0]


@pytest.mark.parametrize("uri", ["foo://x/y", "s3:/x://"])
def test_a_uri_that_cannot_be_opened_is_named(uri):
    with pytest.raises(ConfigError, match=rf"learner\.checkpoint_root={uri}: cannot be opened: "):
        CheckpointStore(uri)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cfg, folder = run(tmp_path / "one", tmp_path / "file")
    with pytest.raises(ConfigError, match=rf"checkpoint_root: {tmp_path}/file/one cannot be"):
        check_place(cfg, folder, take=True)


def test_what_stops_a_write_is_named_with_the_place():
    store = CheckpointStore("/dev")
    with pytest.raises(OSError, match=r"^/dev/full: .*No space left"):
        write(store, ".", "full", "x" * 2**20)


def test_an_error_that_hides_the_file_systems_is_told_as_that(tmp_path):
    """As torch's, which ends its file even where the disk is full."""
    store = CheckpointStore(str(tmp_path))
    with pytest.raises(OSError, match=rf"^{tmp_path}/sft-1/a.pt: .*no space"), hiding(store):
        raise OSError("no space left")
    with pytest.raises(RuntimeError, match="no disk's fault"), store.create("sft-1", "a.pt"):
        raise RuntimeError("no disk's fault")


@contextmanager
def hiding(store):
    with store.create("sft-1", "a.pt"):
        try:
            yield
        except OSError:
            raise RuntimeError("unexpected pos 64")  # noqa: B904 - as torch does


def test_a_file_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    write(CheckpointStore(str(tmp_path)), "sft-1", "tag/a.pt", "x")
    folder = tmp_path / "sft-1"
    assert synced == [str(p) for p in (folder / "tag" / "a.pt", folder / "tag", folder, tmp_path)]
