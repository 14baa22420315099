"""The longest sequence of a model is the one that vLLM derives from the same configuration."""

import json
import shutil
from pathlib import Path

import pytest

from configs.load import ConfigError
from configs.model_claims import check_claims
from configs.model_folder import check_model
from configs.positions import longest_sequence

LINEAR = {"type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({}, None),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "seq_length": 512}, 512),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": LINEAR}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": LINEAR | {"factor": None}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": LINEAR, "model_type": "gemma3"}, 4096),
        ({"rope_scaling": LINEAR}, None),
        ({"max_position_embeddings": 9, "rope_scaling": {"type": "dynamic", "factor": 2}}, 9),
        ({"max_position_embeddings": 9, "rope_parameters": {"rope_type": "yarn", "factor": 2}}, 9),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 2.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            8192,
        ),
    ],
)
def test_it_is_the_smallest_key_with_linear_scaling(config, longest):
    assert longest_sequence(config) == longest


def test_a_context_is_checked_against_it(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    positions = config["max_position_embeddings"]
    file.write_text(json.dumps(config | {"rope_scaling": LINEAR, "rope_parameters": None}))
    assert check_model(folder).positions == 4 * positions
    check_claims(folder, f"model.path={folder}", {}, 4 * positions)
    with pytest.raises(ConfigError, match=f"at {folder} knows {4 * positions} positions"):
        check_claims(folder, f"model.path={folder}", {}, 4 * positions + 1)
    file.write_text(json.dumps(config | {"seq_length": 64}))
    assert check_model(folder).positions == 64
