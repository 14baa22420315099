"""Files of demonstrations: every format gives the same rows, and each fault its own sentence."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.demonstrations import files as demonstration_files
from cluster.demonstrations.files import Slice, find_files, ignored, naming_data, rows, slices
from configs.load import ConfigError

ROWS = [
    {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "x"}]}
    for n in range(10)
]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(demonstration_files, "ROWS", 4)


def write(file, records):
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), file, row_group_size=4)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n \n")
    else:
        file.write_text(json.dumps(records))
    return file


def read(data):
    return [row for part in slices(data) for row in rows(part)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_a_file_and_a_folder_give_rows_with_their_places(tmp_path, suffix):
    file = write(tmp_path / f"a{suffix}", ROWS)
    assert [(part.first, part.rows) for part in slices(file)] == [(0, 4), (4, 4), (8, 2)]
    assert read(file) == [(f"{file}, row {n}", row) for n, row in enumerate(ROWS, 1)]
    write(tmp_path / f"b{suffix}", ROWS[:1])
    (tmp_path / "_demonstrations.json").write_text("{}")
    (tmp_path / ".hidden.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / f"c{suffix}", ROWS)
    assert [row for _, row in read(tmp_path)] == [*ROWS, ROWS[0]]
    assert find_files(file) == [file]


def test_files_of_a_folder_may_have_other_columns(tmp_path):
    write(tmp_path / "a.parquet", ROWS[:1])
    write(tmp_path / "b.parquet", [ROWS[1] | {"images": [b"x"], "id": 7}])
    assert [row for _, row in read(tmp_path)] == [ROWS[0], ROWS[1] | {"images": [b"x"]}]


def test_a_file_without_rows_has_no_slice(tmp_path):
    for suffix in (".jsonl", ".json"):
        assert slices(write(tmp_path / f"a{suffix}", [])) == []
    empty = pa.Table.from_pylist(ROWS).slice(0, 0)
    pq.write_table(empty, tmp_path / "a.parquet")
    assert slices(tmp_path / "a.parquet") == []
    assert sum(p.rows for p in slices(write(tmp_path / "a.jsonl", ROWS[:8]))) == 8


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "a,b", "PATH: demonstrations are files named *.parquet, *.jsonl or *.json"),
        ("a.parquet", "nothing", "PATH: cannot be read as Parquet: "),
        ("a.json", "{", "PATH: cannot be read as JSON: "),
        ("a.json", '{"a": 1}\n{"a": 2}', "; JSON lines are named *.jsonl"),
        ("a.json", '{"a": 1}', "PATH: holds a dict; it must hold a list"),
        ("a.jsonl", '{"a": 1}\n{"a": ', "PATH, row 2: is not JSON: "),
        ("a.jsonl", '{"a": 1}\n\n{"a": 1}', "PATH, row 2: is not JSON: "),
        ("a.jsonl", f'{{"a": 1}}\n{"[" * 10**5}', "PATH, row 2: is nested too deeply"),
        ("a.json", "[" * 10**5, "PATH: cannot be read as JSON: it is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text, words):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words.replace("PATH", str(file)))) as error:
        read(file)
    assert "\n" not in str(error.value)


def test_paths_without_demonstrations_have_sentences_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match=r"absent: there is no such file or folder$"):
        slices(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"the folder holds no \*\.parquet, \*\.jsonl or"):
        slices(tmp_path)
    write(tmp_path / "a.json", [])
    write(tmp_path / "b.jsonl", [])
    with pytest.raises(ConfigError, match=r"the folder holds \.json and \.jsonl files; keep one"):
        slices(tmp_path)


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.parquet.zst", "train.zip", "b.tar"])
def test_a_compressed_file_is_refused_and_not_passed_over(tmp_path, name):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / name).touch()
    with pytest.raises(ConfigError) as error:
        find_files(tmp_path)
    sentence = f"{tmp_path / name}: is compressed, and only files named *.parquet, *.jsonl or"
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(f"or name it _{name} to leave it out")
    (tmp_path / name).rename(tmp_path / f"_{name}")
    assert find_files(tmp_path) == [tmp_path / "a.jsonl"]


def test_what_a_folder_holds_besides_is_said(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, ROWS)
    for name in ("README.md", "c.csv", "_left.csv", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    assert ignored(tmp_path) == ["README.md", "c.csv", "images/"]
    assert ignored(tmp_path / "a.jsonl") == []


def test_a_refusal_names_the_path_once(tmp_path):
    for data in (str(tmp_path), f"{tmp_path}/"):
        with pytest.raises(ConfigError) as error, naming_data(data):
            find_files(data)
        assert str(error.value).startswith(f"sft.data={data}: the folder holds no *.parquet")
    (tmp_path / "a.zip").touch()
    words = rf"^sft.data={tmp_path}: a\.zip: is compressed"
    with pytest.raises(ConfigError, match=words), naming_data(str(tmp_path)):
        find_files(tmp_path)


def test_parquet_without_conversations_names_its_columns(tmp_path):
    file = write(tmp_path / "a.parquet", [{"text": "a", "label": 1}])
    words = r"a\.parquet: has no column messages or conversations; it has text, label$"
    with pytest.raises(ConfigError, match=words):
        slices(file)


def test_a_file_that_is_damaged_behind_its_footer_is_named(tmp_path):
    file = write(tmp_path / "a.parquet", ROWS)
    parts, data = slices(file), file.read_bytes()
    file.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    with pytest.raises(ConfigError, match=r"a\.parquet: cannot be read as Parquet: "):
        list(rows(parts[0]))


def test_a_row_of_parquet_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "a.parquet"
    here = {"messages": [{"role": "user", "content": "HERE"}]}
    table = pa.Table.from_pylist([*ROWS[:5], here])
    pq.write_table(table, file, row_group_size=4, use_dictionary=False, compression="none")
    file.write_bytes(file.read_bytes().replace(b"HERE", b"\xff\xfe\xff\xfe"))
    with pytest.raises(ConfigError, match=r"a\.parquet, row 6: is not UTF-8: "):
        read(file)


def test_a_slice_that_has_gone_is_named(tmp_path):
    for suffix in (".parquet", ".jsonl", ".json"):
        with pytest.raises(ConfigError, match=rf"gone{suffix}: cannot be read"):
            list(rows(Slice(str(tmp_path / f"gone{suffix}"), 0, 1)))


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_dict.json"])
def test_a_data_set_that_was_saved_to_disk(tmp_path, name):
    (tmp_path / name).write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"{name}: is of save_to_disk .*, or name it _"):
        slices(tmp_path)
    (tmp_path / name).rename(tmp_path / f"_{name}")
    (tmp_path / "dataset_info.json").write_text('[{"messages": []}]')
    assert len(slices(tmp_path)) == 1
