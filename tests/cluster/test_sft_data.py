"""SFT input: demonstrations become sequences with their pictures, batch after batch."""

import numpy as np
import pyarrow as pa
import pytest

from cluster import sft_data
from cluster.demonstrations import png, write_demonstrations
from cluster.sft_data import batches, columns, sequences
from envs.registry import make
from rollout.renderer import Renderer
from tests.conftest import BRIEF, VISION

GP = "cardinal/GeneralPoints-v0"


@pytest.fixture(scope="module")
def table(vision_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_demonstrations(GP, BRIEF | VISION, 8, 0, folder)
    read = pa.parquet.read_table(folder, columns=columns(str(folder)))
    read = read.append_column("path", pa.array(["part-00000.parquet"] * 8))
    return sft_data._render(read, vision_model)


def test_tokens_and_pictures_are_those_of_the_environment(table, vision_model):
    renderer = Renderer.load(vision_model)
    env = make(GP, BRIEF | VISION)
    for found, shown in zip(sequences(table), env.demonstrations(8, 0), strict=True):
        (picture,) = found.pictures
        assert (picture.pixels() == shown.images[0]).all()
        ids, mask = renderer.demonstration(shown.messages, [picture])
        assert (found.token_ids == ids).all()
        assert (found.action_mask == mask).all()
        assert (ids == renderer.processor.token_id).sum() == 16


class Shard:
    """Gives the same table anew each time, as Ray Data's iterator does."""

    def __init__(self, table):
        self.table, self.passes = table, 0

    def iter_batches(self, batch_size, **_):
        self.passes += 1
        for start in range(0, len(self.table) - batch_size + 1, batch_size):
            yield self.table.slice(start, batch_size)


@pytest.mark.parametrize("kept", [2**30, 0])
def test_epochs_repeat_whether_or_not_they_fit_in_memory(table, monkeypatch, kept):
    monkeypatch.setattr(sft_data, "KEPT_BYTES", kept)

    def keys(skip):
        shard = Shard(table)
        stream = batches(shard, 3, skip)
        found = [[s.pictures[0].key for s in next(stream)] for _ in range(6)]
        assert shard.passes == (1 if kept else -(-(6 + skip) // 2))
        return found

    whole = keys(0)
    assert whole[:2] == whole[2:4] == whole[4:]
    assert whole[0] != whole[1]
    assert keys(1) == [*whole[1:], whole[0]]


def test_too_few_demonstrations(table):
    with pytest.raises(ValueError, match="fewer than 9"):
        next(batches(Shard(table), 9, 0))


def test_a_damaged_picture_names_its_file(vision_model):
    messages = [{"role": "user", "content": "x", "train": False}]
    good = png(np.zeros((8, 8, 3), np.uint8))
    rows = [{"messages": messages, "images": [good[:20]], "path": "a/part-7.parquet"}]
    with pytest.raises(ValueError, match=r"part-7\.parquet: a demonstration's picture"):
        sft_data._render(pa.Table.from_pylist(rows), vision_model)
