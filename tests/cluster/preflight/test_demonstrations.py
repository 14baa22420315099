"""Demonstrations that a user brings: their pictures are looked at before anything starts."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.demonstrations import png
from cluster.preflight.demonstrations import check_data
from configs.load import ConfigError
from rollout.renderer import Renderer

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


def refused(data, renderer, *words):
    with pytest.raises(ConfigError) as error:
        check_data(data, 1, renderer)
    for word in (data, *words):
        assert word in str(error.value)


def test_pictures_that_the_model_sees(tmp_path, renderer):
    check_data(write(tmp_path, [picture()], [picture(64)]), 2, renderer)


def test_a_damaged_picture(tmp_path, renderer):
    good = picture()
    data = write(tmp_path, [good], [good[: len(good) // 2]])
    refused(data, renderer, "demonstration 1", "cannot be read")
    refused(write(tmp_path, [b"no picture"]), renderer, "demonstration 0", "cannot be read")


def test_a_picture_that_is_too_large(tmp_path, renderer):
    refused(write(tmp_path, [picture(200)]), renderer, "200 x 200", "128")


def test_pictures_for_a_model_of_text(tmp_path, tiny_model):
    refused(write(tmp_path, [picture()]), Renderer.load(tiny_model), "text alone")


def test_a_picture_of_another_mode_is_read(tmp_path, renderer):
    sink = io.BytesIO()
    Image.new("L", (32, 32), 7).save(sink, "JPEG")
    check_data(write(tmp_path, [sink.getvalue()]), 1, renderer)
