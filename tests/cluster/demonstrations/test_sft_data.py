"""SFT input: demonstrations become sequences with their pictures, batch after batch."""

import json
import threading
from dataclasses import replace
from itertools import chain, islice
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from cluster.demonstrations import sft_data
from cluster.demonstrations.files import slices
from cluster.demonstrations.rows import LengthLimit
from cluster.demonstrations.sft_data import (
    DemonstrationTable,
    Prefetched,
    RenderedDemonstrations,
    batches,
    check_object_store,
    render_demonstrations,
)
from cluster.demonstrations.writer import png, write_demonstrations
from cluster.failures import DeadlineExceeded, RunFailure
from configs.load import ConfigError
from envs.registry import make
from rollout.renderer import Renderer
from tests.conftest import BRIEF, VISION
from tests.support.consumer import Consumer
from tests.support.learner import config

GP = "cardinal/GeneralPoints-v0"
TURNS = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}]


@pytest.fixture(scope="module")
def table(vision_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_demonstrations(GP, BRIEF | VISION, 8, 0, folder)
    return rendered_here(folder, vision_model)


def rendered_here(data, model, most=None):
    """The table that a task of Ray Data would make of all slices."""
    parts = pa.Table.from_pylist([vars(part) for part in slices(data)])
    return pa.concat_tables(sft_data._render(parts, model, LengthLimit(None, most)))


def test_tokens_and_pictures_are_those_of_the_environment(table, vision_model):
    renderer = Renderer.load(vision_model)
    env = make(GP, BRIEF | VISION)
    found = DemonstrationTable([table]).sequences(np.arange(8))
    for sequence, shown in zip(found, env.demonstrations(8, 0), strict=True):
        (picture,) = sequence.pictures
        assert (picture.pixels() == shown.images[0]).all()
        ids, mask = renderer.demonstration(shown.messages, [picture])
        assert (sequence.token_ids == ids).all()
        assert (sequence.action_mask == mask).all()
        assert (ids == renderer.processor.token_id).sum() == 16


def keys(sequences):
    return [s.pictures[0].key for s in sequences]


def test_rows_are_counted_over_all_blocks(table):
    whole = keys(DemonstrationTable([table]).sequences(np.arange(8)))
    empty = table.slice(0, 0)
    parts = [empty, table.slice(0, 3), empty, table.slice(3, 1), table.slice(4), empty]
    rows = np.array([7, 0, 2, 3, 4, 0])
    assert keys(DemonstrationTable(parts).sequences(rows)) == [whole[row] for row in rows]
    two = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert two["token_ids"].num_chunks == 2
    assert keys(DemonstrationTable([two]).sequences(np.arange(8))) == whole


def test_sequences_are_views_of_the_block(table):
    (sequence,) = DemonstrationTable([table]).sequences(np.array([5]))
    shown = table["pictures"].chunk(0).values.field("data")
    views = {
        "token_ids": (sequence.token_ids.ctypes.data, table["token_ids"].chunk(0).values),
        "action_mask": (sequence.action_mask.ctypes.data, table["action_mask"].chunk(0).values),
        "pictures": (sequence.pictures[0].data.address, shown),
    }
    for name, (address, column) in views.items():
        buffer = column.buffers()[-1]
        assert buffer.address <= address < buffer.address + buffer.size, name


@pytest.fixture
def local(monkeypatch):
    """RenderedDemonstrations of tables that `ray.get` finds in this process."""
    monkeypatch.setattr(sft_data.ray, "get", lambda blocks, timeout: blocks)
    return lambda blocks: RenderedDemonstrations(blocks, sum(map(len, blocks)), 0)


def configured(size=3, ranks=1, seed=0):
    cfg = config()
    sft, learner = replace(cfg.sft, batch_size=size), replace(cfg.learner, ranks=ranks)
    return replace(cfg, sft=sft, learner=learner, seed=seed)


def taken(rendered, cfg, n, rank=0, skip=0):
    return [keys(batch) for batch in islice(batches(rendered, cfg, rank, skip), n)]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 20])
def test_every_demonstration_is_used_once_an_epoch(table, local, size):
    rendered = local([table.slice(0, 5), table.slice(5)])
    whole = keys(DemonstrationTable([table]).sequences(np.arange(8)))
    assert len(set(whole)) == 8
    stream = list(chain.from_iterable(taken(rendered, configured(size), -(-24 // size))))
    assert {len(batch) for batch in taken(rendered, configured(size), 5)} == {size}
    for epoch in range(3):
        assert sorted(stream[8 * epoch : 8 * epoch + 8]) == sorted(whole)
    assert len({tuple(stream[8 * epoch : 8 * epoch + 8]) for epoch in range(3)}) == 3


def test_a_resume_goes_on_where_it_was_and_a_seed_has_its_own_order(table, local):
    rendered = local([table])
    whole = taken(rendered, configured(), 9)
    for skip in range(7):
        assert taken(rendered, configured(), 9 - skip, skip=skip) == whole[skip:]
    assert taken(rendered, configured(seed=1), 9) != whole


def test_a_run_that_continues_another_begins_after_what_that_saw(table, local):
    rendered, cfg = local([table]), configured()
    later = replace(cfg, sft=replace(cfg.sft, skip=5))
    stream = list(chain.from_iterable(taken(rendered, cfg, 9)))
    assert list(chain.from_iterable(taken(rendered, later, 6))) == stream[5:23]
    assert taken(rendered, later, 4, skip=2) == taken(rendered, later, 6)[2:]


def test_the_ranks_share_what_one_rank_would_train_on(table, local):
    rendered = local([table.slice(0, 5), table.slice(5)])
    alone = taken(rendered, configured(4), 6)
    shares = [taken(rendered, configured(4, ranks=2), 6, rank) for rank in range(2)]
    for batch, first, second in zip(alone, *shares, strict=True):
        assert (batch[::2], batch[1::2]) == (first, second)


def test_a_damaged_picture_names_its_file_and_row(vision_model, tmp_path):
    good = png(np.zeros((8, 8, 3), np.uint8))
    rows = [{"messages": TURNS, "images": [data]} for data in (good, good[:20])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-7.parquet")
    with pytest.raises(ConfigError, match=r"part-7\.parquet, row 2: a picture cannot be read"):
        rendered_here(tmp_path, vision_model)


def test_what_is_over_max_tokens_is_left_out_in_order(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_data, "ROWS", 3)
    write_demonstrations(GP, BRIEF, 20, 0, tmp_path)
    every = rendered_here(tmp_path, tiny_model)["token_ids"].to_pylist()
    most = sorted(map(len, every))[10]
    kept = rendered_here(tmp_path, tiny_model, most)["token_ids"].to_pylist()
    assert kept == [ids for ids in every if len(ids) <= most]
    assert 0 < len(kept) < 20
    assert len(rendered_here(tmp_path, tiny_model, 2)) == 0


def test_the_next_batch_is_made_while_the_last_is_trained_on():
    made = [threading.Event() for _ in range(3)]

    def stream():
        for number, event in enumerate(made):
            event.set()
            yield number

    ahead = Prefetched(stream())
    assert made[0].wait(120)
    assert not made[1].wait(0.1)
    assert next(ahead) == 0
    assert made[1].wait(120)
    assert not made[2].is_set()
    assert list(ahead) == [1, 2]


def test_an_error_ahead_arrives_with_its_batch():
    def stream():
        yield "first"
        raise DeadlineExceeded("the object store", "give a block", 3, "start_deadline_s")

    ahead = Prefetched(stream())
    assert next(ahead) == "first"
    with pytest.raises(DeadlineExceeded, match=r"did not give a block within 3 s"):
        next(ahead)


@pytest.fixture(scope="module")
def rendered(local_ray, tiny_model, tmp_path_factory):
    """100 demonstrations in files of 40, and their token ids in the files' order.

    A folder inside the folder is none of the data, as `cardinal check` counts it.
    """
    folder = tmp_path_factory.mktemp("parts")
    write_demonstrations(GP, BRIEF, 100, 0, folder / "one")
    (file,) = (folder / "one").glob("*.parquet")
    whole, renderer = pq.read_table(file), Renderer.load(tiny_model)
    for number in range(3):
        part = whole.slice(40 * number, 40)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=16)
    ids = [renderer.demonstration(row["messages"], [])[0].tolist() for row in whole.to_pylist()]
    return render_demonstrations(str(folder), tiny_model, 500), ids


def test_two_ranks_read_all_blocks_in_the_files_order(rendered):
    found, ids = rendered
    assert found.rows == 100
    assert found.nbytes == sum(table.nbytes for table in ray.get(found.blocks))
    read = DemonstrationTable(ray.get(found.blocks)).sequences(np.arange(100))
    assert [s.token_ids.tolist() for s in read] == ids

    ranks = [Consumer.remote() for _ in range(2)]
    cfg = configured(16, ranks=2, seed=4)

    def played(skip, n):
        calls = [r.batches.remote(found, cfg, i, skip, n) for i, r in enumerate(ranks)]
        return ray.get(calls, timeout=300)

    shares = played(0, 25)
    steps = zip(*shares, strict=True)
    stream = [
        row for first, second in steps for pair in zip(first, second, strict=True) for row in pair
    ]
    for epoch in range(4):
        assert sorted(stream[100 * epoch : 100 * epoch + 100]) == sorted(ids)
    assert stream[:100] != stream[100:200]
    assert played(9, 16) == [share[9:] for share in shares]


def test_what_does_not_fit_the_object_store_is_refused(rendered):
    found, _ = rendered
    check_object_store(replace(found, nbytes=2**27))
    with pytest.raises(
        RunFailure,
        match=r"^100 demonstrations are 0\.50 GiB rendered, the object store of a learner's node "
        r"holds 0\.12 GiB; raise cluster\.object_store_gib \(",
    ):
        check_object_store(replace(found, nbytes=2**29))


def test_blocks_that_do_not_come_are_named(local_ray):
    @ray.remote(num_cpus=0)
    def never():
        threading.Event().wait(60)

    block = never.remote()
    cfg = configured()
    cfg = replace(cfg, cluster=replace(cfg.cluster, start_deadline_s=0.2))
    with pytest.raises(DeadlineExceeded, match=r"give the rendered demonstrations within 0\.2 s"):
        next(batches(RenderedDemonstrations([block], 1, 1), cfg, 0, 0))
    ray.cancel(block, force=True)


def test_what_cannot_be_rendered_is_told_with_its_file(local_ray, vision_model, tmp_path, capfd):
    rows = [{"messages": TURNS, "images": [png(np.zeros((8, 8, 3), np.uint8))[:20]]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-7.parquet")
    with pytest.raises(
        RunFailure,
        match=r"^demonstrations cannot be rendered: .*Error: .*part-7\.parquet, row 1: a picture",
    ):
        render_demonstrations(str(tmp_path), vision_model, 500)
    assert capfd.readouterr().err.count("part-7.parquet") == 0


def test_a_rendering_that_stands_still_is_given_up(local_ray, tiny_model, tmp_path, monkeypatch):
    def slow(table, folder, limit):
        threading.Event().wait(30)

    monkeypatch.setattr(sft_data, "_render", slow)
    pq.write_table(pa.Table.from_pylist([{"messages": TURNS}]), tmp_path / "part-0.parquet")
    sentence = r"^Ray Data did not render a block of demonstrations within 2 s \(cluster\.start_d"
    with pytest.raises(DeadlineExceeded, match=sentence):
        render_demonstrations(str(tmp_path), tiny_model, 2.0)


def test_no_demonstrations_are_refused(local_ray, tiny_model, tmp_path):
    none = pa.Table.from_pylist([{"messages": TURNS}]).slice(0, 0)
    pq.write_table(none, tmp_path / "part-0.parquet")
    with pytest.raises(RunFailure, match=r": holds no demonstrations; SFT needs at least one$"):
        render_demonstrations(str(tmp_path), tiny_model, 500)


def test_every_format_gives_the_same_and_what_is_dropped_is_counted(
    local_ray, tiny_model, tmp_path
):
    write_demonstrations(GP, BRIEF, 30, 0, tmp_path / "own")
    whole = pq.read_table(tmp_path / "own")["messages"].to_pylist()
    records = [{"messages": messages} for messages in whole]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.json").write_text(json.dumps(records))

    def rendered(name, most=None):
        found = render_demonstrations(str(tmp_path / name), tiny_model, 500, most)
        return found, [ids for t in ray.get(found.blocks) for ids in t["token_ids"].to_pylist()]

    found, ids = rendered("own")
    assert (found.rows, found.dropped) == (30, 0)
    assert rendered("a.jsonl")[1] == ids
    most = sorted(map(len, ids))[15]
    found, kept = rendered("a.json", most)
    assert kept == [row for row in ids if len(row) <= most]
    assert (found.rows, found.dropped) == (len(kept), 30 - len(kept))
    with pytest.raises(RunFailure, match=r"all 30 demonstrations have more than sft\.max_tok"):
        rendered("own", 2)
    with pytest.raises(RunFailure, match=r"absent: there is no such file or folder$"):
        rendered("absent")


@pytest.mark.parametrize(
    ("free", "tasks"), [({"CPU": 2.9}, 2), ({"CPU": 0.5}, 1), ({}, 1), ({"CPU": 64.0}, 9)]
)
def test_no_more_tasks_render_at_once_than_cores_are_free(monkeypatch, free, tasks):
    """Each imports transformers: on two cores eight took 88 s for what two take 36."""
    monkeypatch.setattr(sft_data.ray, "available_resources", lambda: free)
    given = {}
    read = SimpleNamespace(map_batches=lambda function, **options: given.update(options))
    monkeypatch.setattr(sft_data.ray.data, "from_items", lambda items, **_: read)
    sft_data.dataset([sft_data.Slice("file", 0, 1, 0)] * 9, "model", LengthLimit(None, None))
    assert given["compute"].size == tasks
