"""The table of demonstrations' formats in docs/compatibility.md: read, or refused and how."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cluster.demonstrations.files import slices
from cluster.demonstrations.rows import LengthLimit, rendered_rows
from cluster.demonstrations.writer import write_demonstrations
from configs.load import ConfigError
from configs.paths import ROOT
from rollout.renderer import Renderer
from tests.conftest import BRIEF, VISION
from tests.support.marked_section import check_section

USER, ANSWER = {"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}
HUMAN, GPT = {"from": "human", "value": "1 2"}, {"from": "gpt", "value": "3"}
CHAT = {"messages": [USER, ANSWER]}
TEXT = {"type": "text", "text": "1 2"}


def png(picture=None, kind="PNG", **options):
    sink = io.BytesIO()
    (picture or Image.new("RGB", (32, 32), "red")).save(sink, kind, **options)
    return sink.getvalue()


def parts(*content):
    answer = {"role": "assistant", "content": [{"type": "text", "text": "3"}]}
    return {"messages": [{"role": "user", "content": [*content]}, answer]}


def parquet(folder, *records, name="a.parquet"):
    pq.write_table(pa.Table.from_pylist([*records]), folder / name)
    return folder / name


def lines(folder, *records, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / name


def as_json(folder, *records):
    (folder / "a.json").write_text(json.dumps(records))
    return folder / "a.json"


def text(folder, name, content):
    (folder / name).write_text(content)
    return folder / name


def with_file(folder, record, name="card.png"):
    (folder / name).write_bytes(png())
    return lines(folder, record)


def own(folder):
    write_demonstrations("cardinal/GeneralPoints-v0", BRIEF | VISION, 2, 0, folder / "own")
    return folder / "own"


def several(folder):
    parquet(folder, CHAT, name="a.parquet")
    parquet(folder, CHAT | {"images": [png()]}, name="b.parquet")
    return folder


def mixed(folder):
    parquet(folder, CHAT)
    return lines(folder, CHAT).parent


def compressed(folder):
    (folder / "b.jsonl.gz").touch()
    return lines(folder, CHAT).parent


def pictured(picture, kind="PNG", **options):
    return lambda folder: parquet(folder, CHAT | {"images": [png(picture, kind, **options)]})


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


GREY = Image.fromarray(np.full((32, 32), 30000, np.uint16))
FILES = {
    "a folder that `cardinal data` wrote": own,
    "one Parquet file of `messages`": lambda f: parquet(f, CHAT),
    "JSON lines of `messages`": lambda f: lines(f, CHAT),
    "a JSON list of `messages`": lambda f: as_json(f, CHAT),
    "a folder whose files differ in other columns": several,
    "a folder of several formats": mixed,
    "a folder with a compressed file": compressed,
    "a folder without such files": lambda f: f,
    "no such path": lambda f: f / "absent.jsonl",
    "CSV": lambda f: text(f, "a.csv", "a,b\n"),
    "Parquet that is damaged": lambda f: text(f, "a.parquet", "PAR1"),
    "Parquet of other columns": lambda f: parquet(f, {"text": "1 2 3"}),
    "a line that is not JSON": lambda f: text(f, "a.jsonl", '{"messages": ['),
    "JSON lines named `.json`": lambda f: lines(f, CHAT, CHAT, name="a.json"),
}
ROWS = {
    "`content` as a list of text parts": lambda f: lines(f, parts(TEXT)),
    "an image part for each of `images`": lambda f: parquet(
        f, parts({"type": "image"}, TEXT) | {"images": [png()]}
    ),
    "an image part with a path": lambda f: with_file(
        f, parts({"type": "image", "path": "card.png"}, TEXT)
    ),
    "`images` of datasets' Image feature (`bytes`, `path`)": lambda f: parquet(
        f, CHAT | {"images": [{"bytes": png(), "path": None}]}
    ),
    "`images` of paths, from the file's folder": lambda f: with_file(
        f, CHAT | {"images": ["card.png"]}
    ),
    "`image`, one": lambda f: parquet(f, CHAT | {"image": png()}),
    "ShareGPT: `conversations` of `from` and `value`": lambda f: as_json(
        f, {"conversations": [HUMAN, GPT]}
    ),
    "ShareGPT with `<image>` before the text": lambda f: with_file(
        f, {"conversations": [HUMAN | {"value": "<image>\n1 2"}, GPT], "image": "card.png"}
    ),
    "an answer with `train` false, another without": lambda f: lines(
        f, {"messages": [USER, ANSWER | {"train": False}, USER, ANSWER]}
    ),
    "an image part behind the text": lambda f: parquet(
        f, parts(TEXT, {"type": "image"}) | {"images": [png()]}
    ),
    "a picture in a later turn": lambda f: lines(
        f, {"messages": [USER, ANSWER, {"role": "user", "content": [{"type": "image"}]}, ANSWER]}
    ),
    "other pictures than image parts": lambda f: lines(f, parts({"type": "image"}, TEXT)),
    "an empty conversation": lambda f: lines(f, {"messages": []}),
    "no assistant turn": lambda f: lines(f, {"messages": [USER]}),
    "nothing to train on": lambda f: lines(f, {"messages": [USER, ANSWER | {"train": False}]}),
    "a null content": lambda f: lines(f, {"messages": [USER, ANSWER | {"content": None}]}),
    "an unknown role": lambda f: lines(f, {"messages": [USER | {"role": "User"}, ANSWER]}),
    "tool calls": lambda f: lines(f, {"messages": [USER, ANSWER | {"tool_calls": [{"id": 1}]}]}),
    "more tokens than the model reads": lambda f: lines(
        f, {"messages": [USER | {"content": "1 " * 200}, ANSWER]}
    ),
}
PICTURES = {
    "PNG, JPEG, TIFF and others that Pillow reads, 8 bits": pictured(None, "JPEG"),
    "turned by EXIF": pictured(None, **turned()),
    "16 bits a channel": pictured(GREY),
    "transparent: over white": pictured(Image.new("RGBA", (32, 32), (1, 2, 3, 0))),
    "a palette": pictured(Image.new("P", (32, 32), 1)),
    "CMYK": pictured(Image.new("CMYK", (32, 32)), "TIFF"),
    "32 bits without a range": pictured(Image.new("F", (32, 32), 0.5), "TIFF"),
    "several frames": pictured(
        Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]
    ),
    "damaged": lambda f: parquet(f, CHAT | {"images": [png()[:60]]}),
    "absent": lambda f: lines(f, CHAT | {"images": ["absent.png"]}),
    "larger than the model's processor takes": pictured(Image.new("RGB", (500, 500))),
    "over 89,478,485 pixels": pictured(Image.new("1", (10_000, 9_000))),
}


def outcome(make, folder, renderer):
    """`read`, or the sentence with the folder left out."""
    try:
        for part in slices(make(folder)):
            assert all(rendered_rows(part, renderer, LengthLimit(positions=128)))
    except ConfigError as error:
        return "refused: " + str(error).replace(f"{folder}/", "").replace(str(folder), "data")
    return "read"


def test_every_format_is_read_or_refused_as_the_page_says(tmp_path, vision_model):
    renderer, table = Renderer.load(vision_model), []
    for title, cases in (("file", FILES), ("row", ROWS), ("picture", PICTURES)):
        table += [f"| {title} | |", "| --- | --- |"]
        for number, (name, make) in enumerate(cases.items()):
            folder = tmp_path / f"{title}{number}"
            folder.mkdir()
            table.append(f"| {name} | {outcome(make, folder, renderer)} |")
        table.append("")
    check_section(
        ROOT / "docs" / "compatibility.md",
        "demonstrations",
        "What `sft.data` may name ([demonstrations.md](demonstrations.md)), with the model of "
        "the tests:\nan Idefics3 that reads 128 tokens and pictures of 128 pixels. Made by\n"
        "`tests/cluster/demonstrations/test_demonstration_formats.py`.\n\n" + "\n".join(table),
    )
