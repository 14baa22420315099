"""Recorded blocks: dealt out as they were recorded, refused where they are of something else."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from cluster.failures import RunFailure
from cluster.stream.recorded_blocks import (
    METADATA,
    check_blocks,
    metadata_of,
    read_blocks,
    recorded_updates,
    write_blocks,
)
from configs.load import ConfigError
from configs.schema import PPOConfig, RunConfig
from rollout.block_files import read_metadata, write_block
from tests.support.trajectories import trajectory


def model_folder(path, vocabulary="a b", weight=1.0, head=0.0):
    path.mkdir()
    (path / "tokenizer.json").write_text(vocabulary)
    save_file({"w": np.full(4, weight, np.float32)}, path / "model.safetensors")
    save_file({"v": np.full(4, head, np.float32)}, path / "value_head.safetensors")
    return path


@pytest.fixture
def recorded(tmp_path):
    """A configuration whose blocks are those of its model: two updates of two parts."""
    model, blocks = model_folder(tmp_path / "model"), tmp_path / "blocks"
    cfg = RunConfig(ppo=PPOConfig(updates=2, blocks=str(blocks)))
    cfg = replace(cfg, model=replace(cfg.model, path=str(model)))
    for update in (1, 2):
        for rank in (0, 1):
            played = [trajectory(f"{update}/{i}") for i in range(rank, 6, 2)]
            write_blocks(blocks, update, rank, played, metadata_of(cfg, str(model), 2))
    return cfg, blocks


def ids(played):
    return [trajectory.id for trajectory in played]


def test_each_rank_gets_what_it_recorded_and_other_numbers_of_ranks_a_share(recorded):
    _, blocks = recorded
    assert recorded_updates(blocks) == [1, 2]
    assert ids(read_blocks(blocks, 2, 1, 2)) == ["2/1", "2/3", "2/5"]
    whole = ["1/0", "1/2", "1/4", "1/1", "1/3", "1/5"]
    assert ids(read_blocks(blocks, 1, 0, 1)) == whole
    dealt = [ids(read_blocks(blocks, 1, rank, 3)) for rank in range(3)]
    assert sorted(name for share in dealt for name in share) == sorted(whole)
    assert [len(share) for share in dealt] == [2, 2, 2]


def test_what_fits_is_not_refused(recorded, tmp_path):
    cfg, _ = recorded
    check_blocks(cfg)
    same = model_folder(tmp_path / "copy", head=5.0)  # a value head is no part of the policy
    check_blocks(replace(cfg, model=replace(cfg.model, path=str(same))))
    other = model_folder(tmp_path / "other", weight=2.0)
    free = replace(cfg, cluster=replace(cfg.cluster, weight_proof=False))
    check_blocks(replace(free, model=replace(cfg.model, path=str(other))))


RECORDED = {"update": 2, "part": 1, "parts": 2, "tokenizer": "a", "weights": "b", "keys": {}}
METADATA_OF_OTHERS = {
    "no parts": {"keys": {}},
    "a list": [],
    "a number": 3,
    "parts in words": RECORDED | {"parts": "two"},
    "other keys": RECORDED,
    "keys in a list": RECORDED | {"keys": ["ppo.episodes"]},
}


def zero(part):
    data = part.read_bytes()
    third = len(data) // 3
    part.write_bytes(data[:third] + bytes(third) + data[2 * third :])


def copy(part, update, rank):
    """Another part in the place of this one."""
    for name in ("trajectories", "pictures"):
        source = part.parent.parent / update / f"{name}-{rank}.arrow"
        shutil.copy(source, part.with_name(f"{name}-1.arrow"))


def foreign_schema(part):
    with pa.ipc.new_file(str(part), pa.schema([("id", pa.string())])):
        pass


def recorded_with(text):
    return lambda part: write_block(part.parent, 1, [], {METADATA: text})


DAMAGE = {  # of part 1 of update 2
    "gap": lambda part: shutil.rmtree(part.parent.parent / "000001"),
    "part": lambda part: part.unlink(),
    "damaged": lambda part: part.write_bytes(part.read_bytes()[:100]),
    "pictures": lambda part: part.with_name("pictures-1.arrow").unlink(),
    "zeros": zero,
    "id": lambda part: part.write_bytes(part.read_bytes().replace(b"2/3", b"X/9")),
    "update": lambda part: copy(part, "000001", 1),
    "rank": lambda part: copy(part, "000002", 0),
    "name": lambda part: part.rename(part.with_name("trajectories-x.arrow")),
    "schema": foreign_schema,
    "foreign": lambda part: write_block(part.parent, 1, [], {"somebody": "else"}),
    "no JSON": recorded_with("{"),
    **{kind: recorded_with(json.dumps(what)) for kind, what in METADATA_OF_OTHERS.items()},
}


def wrong(kind, cfg, blocks, tmp_path):
    """A configuration whose blocks are wrong in one way."""
    if kind in DAMAGE:
        DAMAGE[kind](blocks / "000002" / "trajectories-1.arrow")
    if kind == "absent":
        return replace(cfg, ppo=replace(cfg.ppo, blocks=str(tmp_path / "nowhere")))
    if kind == "empty":
        (tmp_path / "empty").mkdir()
        return replace(cfg, ppo=replace(cfg.ppo, blocks=str(tmp_path / "empty")))
    if kind in ("tokenizer", "weights"):
        changed = {"vocabulary": "a c"} if kind == "tokenizer" else {"weight": 2.0}
        other = model_folder(tmp_path / "other", **changed)
        return replace(cfg, model=replace(cfg.model, path=str(other)))
    if kind == "episodes":
        return replace(cfg, ppo=replace(cfg.ppo, episodes=64))
    if kind == "temperature":
        return replace(cfg, rollout=replace(cfg.rollout, temperature=0.5))
    return cfg


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", "there is no such folder"),
        ("empty", "holds no recorded blocks; `cardinal train … ppo.record=true` writes"),
        ("gap", "has no update 1, but has 2"),
        ("part", "update 2 has 1 of its 2 parts"),
        ("damaged", "000002/trajectories-1.arrow is damaged: "),
        ("pictures", "000002/pictures-1.arrow is missing"),
        ("zeros", "000002/trajectories-1.arrow is damaged: "),
        ("id", "000002/trajectories-1.arrow or pictures-1.arrow is damaged: not what was written"),
        ("update", "000002/trajectories-1.arrow was recorded as part 1 of update 1; it must lie"),
        ("rank", "000002/trajectories-1.arrow was recorded as part 0 of update 2; it must lie"),
        ("name", "000002/trajectories-x.arrow: must be named trajectories-PART.arrow"),
        *(
            (kind, "000002/trajectories-1.arrow is no recorded block")
            for kind in METADATA_OF_OTHERS
        ),
        ("no JSON", "000002/trajectories-1.arrow is no recorded block"),
        ("schema", "000002/trajectories-1.arrow is of another version of Cardinal"),
        ("foreign", "000002/trajectories-1.arrow is no recorded block"),
        ("tokenizer", "was recorded with another tokenizer than that of model.path="),
        ("weights", "was recorded with other weights than those of model.path="),
        ("episodes", "was recorded with ppo.episodes=256; it is 64 here"),
        ("temperature", "was recorded with rollout.temperature=1.0; it is 0.5 here"),
    ],
)
def test_what_does_not_fit_is_named_in_one_sentence(kind, words, recorded, tmp_path):
    cfg = wrong(kind, *recorded, tmp_path)
    with pytest.raises(ConfigError) as refused:
        check_blocks(cfg)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"ppo.blocks={cfg.ppo.blocks}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "kind", ["part", "damaged", "pictures", "zeros", "id", "update", "rank", "name", "no JSON"]
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_damaged_after_the_check_ends_the_run_in_one_line(kind, ranks, recorded, tmp_path):
    wrong(kind, *recorded, tmp_path)
    _, blocks = recorded
    with pytest.raises(RunFailure) as failed:
        read_blocks(blocks, 2, ranks - 1, ranks)
    assert str(failed.value).startswith(f"ppo.blocks={blocks}: ")
    assert "\n" not in str(failed.value)


def test_fewer_ranks_that_record_an_update_again_leave_no_part_of_the_first_time(recorded):
    cfg, blocks = recorded
    again = metadata_of(cfg, cfg.model.path, 1, "2.1")
    write_blocks(blocks, 2, 0, [trajectory("2/9")], again)
    assert ids(read_blocks(blocks, 2, 0, 1)) == ["2/9"]
    assert sorted(file.name for file in (blocks / "000002").iterdir()) == [
        "pictures-0.arrow",
        "trajectories-0.arrow",
    ]


def test_what_was_recorded_after_an_update_that_is_made_again_goes(recorded):
    """Its episodes were played with weights that are no more."""
    cfg, blocks = recorded
    write_blocks(blocks, 1, 1, [], metadata_of(cfg, cfg.model.path, 2, "2.1"))
    assert recorded_updates(blocks) == [1, 2], "rank 0 removes them"
    write_blocks(blocks, 1, 0, [trajectory("1/9")], metadata_of(cfg, cfg.model.path, 2, "2.1"))
    assert recorded_updates(blocks) == [1]


def test_parts_of_two_attempts_at_an_update_are_no_batch(recorded):
    """Killed after one of two ranks had recorded it again: an episode can be in both, or none."""
    cfg, blocks = recorded
    again = metadata_of(cfg, cfg.model.path, 2, "2.1")
    write_blocks(blocks, 2, 0, [trajectory("2/1")], again)
    with pytest.raises(ConfigError, match=r"update 2 was .* two attempts; ppo.updates=1 trains"):
        check_blocks(cfg)
    check_blocks(replace(cfg, ppo=replace(cfg.ppo, updates=1)))


def test_an_update_that_is_gone_is_not_an_empty_one(recorded):
    _, blocks = recorded
    with pytest.raises(RunFailure, match=r"blocks: has no update 3$"):
        read_blocks(blocks, 3, 0, 1)


def test_updates_that_are_not_trained_on_may_be_incomplete(recorded, tmp_path):
    cfg = wrong("part", *recorded, tmp_path)
    first = replace(cfg, ppo=replace(cfg.ppo, updates=1))
    check_blocks(first)
    shutil.rmtree(recorded[1] / "000001")
    with pytest.raises(ConfigError, match="has no update 1, but has 2"):
        check_blocks(first)


def test_only_folders_that_are_read_count_as_updates(recorded):
    _, blocks = recorded
    for name in ("3", "00004", "000003²", "000005.old"):
        shutil.copytree(blocks / "000002", blocks / name)
    (blocks / "000006").mkdir()
    assert recorded_updates(blocks) == [1, 2]


def test_each_part_says_with_what_it_was_recorded_and_where(recorded):
    cfg, blocks = recorded
    text = read_metadata(blocks / "000002" / "trajectories-1.arrow")[METADATA]
    assert json.loads(text) == {"update": 2, "part": 1, **metadata_of(cfg, cfg.model.path, 2)}


def test_the_metadata_says_with_what_it_was_recorded(recorded):
    cfg, _ = recorded
    what = metadata_of(cfg, cfg.model.path, 2)
    assert what["parts"] == 2
    assert what["keys"]["ppo.episodes"] == 256
