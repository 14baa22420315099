"""The end of a run, tried before its beginning: a model that could not be saved is refused."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from cluster.preflight.export import check_export
from configs.load import ConfigError


@pytest.fixture
def folder(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_model_that_can_be_saved_leaves_nothing_behind(folder, monkeypatch, tmp_path):
    (tmp_path / "drafts").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "drafts"))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    check_export(str(folder), (1,))
    assert list((tmp_path / "drafts").iterdir()) == []
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_generation_configuration_that_transformers_calls_invalid_is_no_obstacle(folder):
    """Its values are kept (tests/learner/test_export.py)."""
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    check_export(str(folder), (1,))


def test_a_tokenizer_that_is_not_among_the_copied_files_is_noticed(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="cannot be written and read again"):
        check_export(str(folder), (1,))


def test_generation_keys_in_config_json_are_no_obstacle(folder):
    """As they are none to the export (tests/learner/test_export.py)."""
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 0.7}))
    check_export(str(folder), (1,))


def test_the_stop_tokens_of_a_run_are_written_and_read(folder, monkeypatch):
    written = []

    def save(trunk, source, target, state, stop_ids):
        written.append(stop_ids)

    monkeypatch.setattr("learner.export.save_trunk", save)
    with pytest.raises(ConfigError, match="cannot be written and read again"):
        check_export(str(folder), (3, 7))  # nothing was written
    assert written == [(3, 7)]
