"""Demonstrations that a user brings are read and rendered before anything starts."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.demonstrations.writer import png
from cluster.preflight import demonstrations as preflight
from cluster.preflight.demonstrations import check_data, check_expert_data
from configs.load import ConfigError
from configs.schema import SFTConfig
from envs.registry import make
from rollout.renderer import Renderer
from tests.conftest import BRIEF

MESSAGES = [
    {"role": "user", "content": "1 2", "train": False},
    {"role": "assistant", "content": "3", "train": True},
]


def write(folder, *images):
    rows = [{"messages": MESSAGES, "images": list(found)} for found in images]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    return str(folder)


def picture(side=128):
    return png(np.full((side, side, 3), 90, np.uint8))


@pytest.fixture(scope="module")
def renderer(vision_model):
    return Renderer.load(vision_model)


def checked(data, renderer, least=1, positions=None, most=None):
    return check_data(SFTConfig(data=data, batch_size=least, max_tokens=most), renderer, positions)


def refused(data, renderer, *words, **limits):
    with pytest.raises(ConfigError) as error:
        checked(data, renderer, **limits)
    for word in (data, *words):
        assert word in str(error.value)


def test_pictures_that_the_model_sees(tmp_path, renderer):
    found = checked(write(tmp_path, [picture()], [picture(64)]), renderer, 2)
    assert (found.rows, found.files, found.rendered, found.dropped) == (2, 1, 2, 0)


def test_whether_there_are_pictures_is_seen(tmp_path, renderer):
    for images in ([], [picture()]):
        assert checked(write(tmp_path, [], images), renderer).pictures == bool(images)


def test_a_damaged_picture(tmp_path, renderer):
    good = picture()
    data = write(tmp_path, [good], [good[: len(good) // 2]])
    refused(data, renderer, "part-00000.parquet, row 2: a picture cannot be read")
    refused(write(tmp_path, [b"no picture"]), renderer, "row 1: a picture cannot be read")


def test_a_picture_that_is_too_large(tmp_path, renderer):
    refused(write(tmp_path, [picture(200)]), renderer, "200 x 200", "128")


def test_pictures_for_a_model_of_text(tmp_path, tiny_model):
    refused(write(tmp_path, [picture()]), Renderer.load(tiny_model), "text alone")


def test_a_picture_of_another_mode_is_read(tmp_path, renderer):
    sink = io.BytesIO()
    Image.new("L", (32, 32), 7).save(sink, "JPEG")
    checked(write(tmp_path, [sink.getvalue()]), renderer)


def test_rows_of_every_file_are_seen(tmp_path, tiny_model):
    """The last file's first rows are rendered, also of more files than are sampled."""
    renderer = Renderer.load(tiny_model)
    for number in range(12):
        rows = [{"messages": MESSAGES}] * 3
        if number == 11:
            rows[2] = {"messages": MESSAGES[:1]}
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number:02}.parquet")
    refused(
        str(tmp_path), renderer, f"sft.data={tmp_path}: 11.parquet, row 3: messages: has no ass"
    )
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "11.parquet")
    found = checked(str(tmp_path), renderer, least=35)
    assert (found.rows, found.files, found.rendered) == (35, 12, 23)
    refused(str(tmp_path), renderer, "holds 35 demonstrations, sft.batch_size=36", least=36)


def test_rows_that_are_not_rendered_are_read(tmp_path, tiny_model, monkeypatch):
    renderer, file = Renderer.load(tiny_model), tmp_path / "late.jsonl"
    lines = [json.dumps({"messages": MESSAGES}) for _ in range(40)]
    bad = [MESSAGES[0], {"role": "asistant", "content": "3"}]
    faults = {
        json.dumps({"messages": bad}): "messages[1].role='asistant': must be one of system",
        "": "is not JSON",
        json.dumps({"messages": MESSAGES, "images": ["no.png"]}): "picture no.png cannot be read",
    }
    for line, words in faults.items():
        file.write_text("\n".join([*lines[:30], line, *lines[31:]]))
        refused(str(file), renderer, f"row 31: {words}")
    monkeypatch.setattr(preflight, "READ_ROWS", 30)
    assert checked(str(file), renderer).read == 30
    file.write_text("\n".join(lines))
    monkeypatch.setattr(preflight, "READ_ROWS", 50)
    assert checked(str(file), renderer).read == 40


def test_pictures_are_read_up_to_so_many_bytes(tmp_path, renderer, monkeypatch):
    data = write(tmp_path, *[[picture()]] * 3)
    monkeypatch.setattr(preflight, "READ_BYTES", 2 * len(picture()))
    assert checked(data, renderer).read == 2


def test_long_ones_are_counted_or_refused(tmp_path, tiny_model):
    renderer = Renderer.load(tiny_model)
    long = [{**MESSAGES[0], "content": "1 " * 30}, MESSAGES[1]]
    data = [{"messages": messages} for messages in (MESSAGES, long)]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "a.parquet")
    every = checked(str(tmp_path), renderer)
    assert every.dropped == 0
    refused(str(tmp_path), renderer, "row 2: has", "sft.max_tokens=20 drops", positions=20)
    found = checked(str(tmp_path), renderer, positions=20, most=20)
    assert found.dropped == 1
    assert found.longest < 20 < every.longest


def test_an_experts_demonstration_that_the_model_cannot_read(tiny_model):
    renderer, env = Renderer.load(tiny_model), make("cardinal/GeneralPoints-v0", BRIEF)
    first = list(env.demonstrations(16, 0))
    longest = max(len(renderer.demonstration(one.messages)[0]) for one in first)
    check_expert_data(first, SFTConfig(), renderer, longest)
    check_expert_data(first, SFTConfig(max_tokens=longest - 1), renderer, longest - 1)
    with pytest.raises(ConfigError, match=r"^the expert's demonstration \d+: has .*max_tokens="):
        check_expert_data(first, SFTConfig(), renderer, longest - 1)
