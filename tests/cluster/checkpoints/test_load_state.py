"""Which states are given up for the one before them, and that a place that is away costs none."""

from __future__ import annotations

import shutil

import pytest

from cluster.checkpoints.checkpoint_store import CheckpointStore
from cluster.checkpoints.cursor import Cursor, kept_states
from cluster.checkpoints.load_state import load_state
from cluster.failures import RunFailure, StateLost
from cluster.run.lease import LeaseLost
from learner.snapshot import DamagedState

OLDER, NEWEST = "ppo-000004-00ab", "ppo-000005-00ab"
PART = "state/part.pt"
FILES = {name: len(f"{name} of 4") for name in ("random.pt", PART)}  # their bytes


class Engine:
    """Reads all files, or raises an error once it has opened some."""

    def __init__(self, error=None, opens=1):
        self.error, self.opens, self.loaded = error, opens, {}

    def load(self, names, open_file):
        for number, name in enumerate(names):
            if self.error is not None and number == self.opens:
                break
            with open_file(name) as stream:
                self.loaded[name] = stream.read(2**20)
        if self.error is not None:
            raise self.error


@pytest.fixture
def run(tmp_path):
    """A run with two states of two files each; the function reads the one where it stands."""
    store = CheckpointStore(str(tmp_path / "state"))
    for update, state in ((4, OLDER), (5, NEWEST)):
        for name in ("random.pt", PART):
            with store.create(state, name) as stream:
                stream.write(f"{name} of {update}".encode())
        Cursor("ppo", update=update, group=update).at(state).save(tmp_path, keep=2)

    def run(engine, state=None, check=lambda: None):
        load_state(engine, store, tmp_path, state or Cursor.load(tmp_path).state, check)
        return engine.loaded

    return run


def unreadable(tmp_path, *states):
    """In the place of these states' files, what opens and then gives an input/output error."""
    for state in states:
        for file in (tmp_path / "state" / state).rglob("*.pt"):
            file.unlink()
            file.symlink_to("/proc/self/mem")


def test_all_files_of_the_state_are_read(run):
    assert run(Engine()) == {"random.pt": b"random.pt of 5", PART: b"state/part.pt of 5"}


@pytest.mark.parametrize("how", ["damaged", "gone", "not given by the disk"])
def test_a_damaged_state_leaves_the_run_at_the_one_before(run, tmp_path, how):
    error, what = None, PART
    if how == "damaged":
        error = DamagedState(PART, "not a zip archive")
    elif how == "gone":
        shutil.rmtree(tmp_path / "state" / NEWEST)
        what = "every file"
    else:
        unreadable(tmp_path, NEWEST)
        what = r"random\.pt"
    words = rf"^{tmp_path}/state/{NEWEST}: {what} of .* cannot be read: .*; the run goes on after "
    for _ in range(2):  # ranks: the second one finds that the run has been moved
        with pytest.raises(StateLost, match=f"{words}PPO update 4$"):
            run(Engine(error), NEWEST)
    assert Cursor.load(tmp_path) == Cursor("ppo", update=4, group=4).at(OLDER)
    assert run(Engine())[PART] == b"state/part.pt of 4", "a resume goes on from there"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["it is gone", "it has 3 of its {} bytes"])
def test_a_state_that_lacks_a_file_or_a_part_of_one_is_given_up(run, tmp_path, name, what):
    """DeepSpeed would say nothing of it, or nothing that tells of a damage."""
    Cursor("ppo", update=5, group=5).at(NEWEST, FILES).save(tmp_path, keep=2)
    file, what = tmp_path / "state" / NEWEST / name, what.format(FILES[name])
    file.unlink()
    if what != "it is gone":
        file.write_text("cut")
    engine = Engine()
    with pytest.raises(StateLost, match=rf"{name} of .*: {what}; the run goes on after PPO update"):
        run(engine)
    assert engine.loaded == {}
    assert run(Engine())[PART] == b"state/part.pt of 4"


def test_what_no_rank_has_written_is_not_read(run, tmp_path):
    Cursor("ppo", update=5, group=5).at(NEWEST, FILES).save(tmp_path, keep=2)
    (tmp_path / "state" / NEWEST / ".nfs0001").write_text("a file that was removed while open")
    assert run(Engine()).keys() == FILES.keys()


@pytest.mark.parametrize(
    "away", ["all", "the only one", "a moment", "unmounted", "another disk", "late", "a bucket's"]
)
def test_a_place_that_is_away_is_no_damage(run, tmp_path, away):
    """Or the run would fall back, and remove newer states once the place is there again."""
    before, engine, words = Cursor.load(tmp_path), Engine(), "Errno 5"
    if away == "all":
        unreadable(tmp_path, OLDER, NEWEST)
    elif away == "the only one":
        unreadable(tmp_path, NEWEST)
        shutil.rmtree(tmp_path / "state" / OLDER)
    elif away == "a moment":
        engine = Engine(OSError(5, "Input/output error"), opens=2)
    elif away == "unmounted":
        for state in (OLDER, NEWEST):
            shutil.rmtree(tmp_path / "state" / state)
        words = r"/state: no state of the run is there; is it mounted\?$"
    elif away in ("late", "a bucket's"):  # for longer than the look at the file afterwards
        unreadable(tmp_path, NEWEST)
        error = TimeoutError(110, "timed out") if away == "late" else OSError("AWS Error SLOW_DOWN")
        engine, words = Engine(error), "timed out|SLOW_DOWN"
        (tmp_path / "state" / NEWEST / "random.pt").unlink()
        (tmp_path / "state" / NEWEST / "random.pt").write_text("as it was")
    else:  # as the temporary folder, in which states for another number of ranks are made
        engine, words = Engine(OSError(28, "No space left on device"), opens=0), "No space left"
    with pytest.raises(OSError, match=words):
        run(engine)
    assert Cursor.load(tmp_path) == before
    assert kept_states(tmp_path) == [OLDER, NEWEST]


def test_it_is_the_file_that_failed_that_is_read_again(run, tmp_path):
    unreadable(tmp_path, NEWEST)
    random = tmp_path / "state" / NEWEST / "random.pt"
    random.unlink()
    random.write_text("as it was")
    with pytest.raises(StateLost, match=rf"/{NEWEST}: {PART} of the last"):
        run(Engine())


def test_the_same_file_of_another_state_shows_that_the_place_is_there(run, tmp_path):
    """A small one would not: where large ones fail, the way there is bad."""
    unreadable(tmp_path, NEWEST)
    part = tmp_path / "state" / OLDER / PART
    part.unlink()
    part.symlink_to("/proc/self/mem")
    random = tmp_path / "state" / NEWEST / "random.pt"
    random.unlink()
    random.write_text("as it was")
    with pytest.raises(OSError, match="Errno 5"):
        run(Engine())
    part.rename(part.with_name("part-of-two.pt"))  # of another number of ranks: any file does
    with pytest.raises(StateLost):
        run(Engine())


def test_a_state_that_is_gone_with_no_other_is_named(tmp_path):
    Cursor("sft", step=3, state="sft-000003-ab12").save(tmp_path, keep=1)
    store = CheckpointStore(str(tmp_path / "state"))
    words = "every file of the last checkpoint cannot be read: it is gone; no older one is kept"
    with pytest.raises(RunFailure, match=rf"^{store.place}/sft-000003-ab12: {words}$"):
        load_state(Engine(), store, tmp_path, "sft-000003-ab12", lambda: None)


def test_a_state_that_is_refused_ends_the_run_where_it_stands(run, tmp_path):
    before = Cursor.load(tmp_path)
    with pytest.raises(RunFailure, match=rf"/{NEWEST}: {PART} holds posix") as error:
        run(Engine(ValueError(f"{PART} holds posix.system")))
    assert type(error.value) is RunFailure
    assert Cursor.load(tmp_path) == before


def test_who_may_not_write_the_folder_moves_no_cursor_back(run, tmp_path):
    def taken():
        raise LeaseLost("taken")

    with pytest.raises(LeaseLost):
        run(Engine(DamagedState(PART, "half of it")), check=taken)
    assert Cursor.load(tmp_path).update == 5
