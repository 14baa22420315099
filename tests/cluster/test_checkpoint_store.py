"""Places of states: folders and URIs behave alike, and each error names the place."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from cluster.checkpoint_store import CheckpointStore, check_place, state_place
from cluster.cursor import Cursor
from configs.load import ConfigError, load


@pytest.fixture(params=["folder", "file", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/states"
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
    store.keep(["sft-3"])
    assert store.names("sft-1") == []
    assert len(store.names("sft-3")) == 2


def test_a_state_that_is_being_written_does_not_count(place):
    store = CheckpointStore(place)
    with suppress(ValueError), store.create("sft-9", "part.pt") as stream:
        stream.write(b"x")
        raise ValueError("broken")
    store.keep([])
    assert store.names("sft-9") == []


def test_free_bytes_are_known_of_a_folder_alone(place):
    free = CheckpointStore(place).free_bytes()
    assert (free is None) == place.startswith("s3:")
    assert free is None or free > 0


def run(tmp_path, root, name="one"):
    cfg = load("gp_l_debug", [f"name={name}", f"learner.checkpoint_root={root}"])
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return cfg, folder


def test_a_place_belongs_to_the_run_that_took_it(place, tmp_path):
    mine, another = run(tmp_path, place), run(tmp_path / "..", place)
    another = replace(another[0]), tmp_path / "elsewhere" / "one"
    check_place(*mine)
    check_place(*mine, take=True)
    check_place(*mine, take=True)  # a resume
    with pytest.raises(ConfigError, match=f"{place}/one holds the states of the run {mine[1]};"):
        check_place(*another, take=True)
    write(CheckpointStore(state_place(*mine)), "sft-1", "a.pt", "x")
    Cursor("sft", step=1, state="sft-1").save(another[1] / "checkpoints", keep=1)
    check_place(*another, take=True)  # it is the same run, moved
    with pytest.raises(ConfigError, match="holds the states of the run"):
        check_place(*mine)
    Cursor("sft", step=2, state="sft-2").save(mine[1] / "checkpoints", keep=1)
    with pytest.raises(ConfigError, match=f"{place}/one does not hold sft-2, the run's last"):
        check_place(*mine)


def test_without_a_root_states_are_in_the_run_folder(tmp_path):
    cfg = load("gp_l_debug", ["name=one"])
    assert state_place(cfg, tmp_path) == f"{tmp_path}/checkpoints/state"
    check_place(cfg, tmp_path / "nowhere", take=True)
    assert list(tmp_path.iterdir()) == []


def test_the_runs_name_comes_before_a_uris_options(tmp_path):
    cfg, folder = run(tmp_path, "s3://b/c/?region=eu-1&scheme=http")
    assert state_place(cfg, folder) == "s3://b/c/one?region=eu-1&scheme=http"


@pytest.mark.parametrize("uri", ["foo://x/y", "s3:/x://"])
def test_a_uri_that_cannot_be_opened_is_named(uri):
    with pytest.raises(ConfigError, match=rf"learner\.checkpoint_root={uri}: cannot be opened: "):
        CheckpointStore(uri)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cfg, folder = run(tmp_path, tmp_path / "file")
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
    write(CheckpointStore(str(tmp_path)), "sft-1", "a.pt", "x")
    assert synced == [str(tmp_path / "sft-1" / "a.pt"), str(tmp_path / "sft-1")]
