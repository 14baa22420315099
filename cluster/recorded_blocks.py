"""Recorded blocks: the trajectories of each PPO update on disk, a part for each learner rank.

FOLDER/000001/ has those of update 1. Each part names the model that began the phase and the keys
that a learner must share, so that blocks of another model are refused.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from cluster.data_fingerprint import PIECES, file_fingerprint
from configs.load import ConfigError
from configs.model_folder import VOCABULARIES, find_model
from configs.schema import RunConfig
from configs.text import one_line
from report.metrics import Record
from rollout.block_files import parts, read_block, read_metadata, write_block
from rollout.trajectory import Trajectory

FOLDER = "blocks"  # of a run
METADATA = "cardinal"
HOW = "`cardinal train … ppo.record=true` writes a run's, `cardinal rollout` those of engines alone"


def write_blocks(
    folder: Path, update: int, rank: int, trajectories: list[Trajectory], metadata: dict[str, str]
) -> None:
    """Record what a rank trains on in an update; metadata as of `metadata_of`."""
    write_block(folder / f"{update:06d}", rank, trajectories, metadata)


def metadata_of(cfg: RunConfig, model: str, parts: int) -> dict[str, str]:
    """What blocks are recorded with, in as many parts: the model's fingerprint, and keys."""
    what = {"parts": parts, "keys": _shared_keys(cfg), **_fingerprint(Path(model))}
    return {METADATA: json.dumps(what, sort_keys=True)}


def _shared_keys(cfg: RunConfig) -> dict[str, object]:
    """Keys that must be the same where blocks are recorded and where they are trained on."""
    return {
        "ppo.episodes": cfg.ppo.episodes,
        "ppo.group_size": cfg.ppo.group_size,
        "ppo.trunc_bootstrap": cfg.ppo.trunc_bootstrap,
        "rollout.temperature": cfg.rollout.temperature,
    }


def _fingerprint(model: Path) -> dict[str, str]:
    """Hashes of a model folder's vocabulary and of its weights, without a value head."""
    vocabulary = {file for pattern in VOCABULARIES for file in model.glob(pattern)}
    weights = model.glob("model*.safetensors")
    return {"tokenizer": _hash(sorted(vocabulary)), "weights": _hash(sorted(weights))}


def _hash(files: list[Path]) -> str:
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(repr(file_fingerprint(file, max(2, PIECES // len(files)))).encode())
    return digest.hexdigest()


def recorded_updates(folder: Path) -> list[int]:
    """The updates of a folder of recorded blocks, in order."""
    return sorted(int(f.name) for f in folder.glob("[0-9]*") if f.name.isdigit() and parts(f))


def read_blocks(folder: Path, update: int, rank: int, ranks: int) -> list[Trajectory]:
    """A rank's trajectories of an update.

    Where as many ranks recorded them, each gets its own in their order; else they are dealt out.
    """
    files = parts(folder / f"{update:06d}")
    if len(files) == ranks:
        return read_block(files[rank])
    return [t for file in files for t in read_block(file)][rank::ranks]


def check_blocks(cfg: RunConfig) -> None:
    """Refuse `ppo.blocks` that the run cannot train on.

    Raises:
        ConfigError: there are none, one is missing or damaged, or they are of another model,
            tokenizer, schema or of other keys.
    """
    assert cfg.ppo.blocks is not None
    assert cfg.model.path is not None  # configs.contradictions
    key, folder = f"ppo.blocks={cfg.ppo.blocks}", Path(cfg.ppo.blocks)
    if not folder.is_dir():
        raise ConfigError(f"{key}: there is no such folder")
    updates = recorded_updates(folder)
    if not updates:
        raise ConfigError(f"{key}: holds no recorded blocks; {HOW}")
    missing = sorted(set(range(1, updates[-1] + 1)) - set(updates))
    if missing:
        raise ConfigError(
            f"{key}: has no update {missing[0]}, but has {updates[-1]}; all must be there"
        )
    fingerprint = _fingerprint(find_model(cfg.model.path))
    for update in updates:
        _check_update(cfg, key, folder / f"{update:06d}", fingerprint)


def _check_update(cfg: RunConfig, key: str, folder: Path, model: dict[str, str]) -> None:
    files = parts(folder)
    for file in files:
        try:
            metadata = read_metadata(file)
            recorded = json.loads(metadata[METADATA])
        except (OSError, pa.ArrowInvalid) as error:
            raise ConfigError(
                f"{key}: {folder.name}/{file.name} is damaged: {one_line(error)}"
            ) from error
        except KeyError as error:
            raise ConfigError(
                f"{key}: {folder.name}/{file.name} is no recorded block; {HOW}"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{key}: {folder.name}/{error}") from error
        complete = recorded["parts"]
        if len(files) != complete:
            raise ConfigError(
                f"{key}: update {int(folder.name)} has {len(files)} of its {complete} parts"
            )
        _check_model(cfg, key, recorded, model)


def _check_model(cfg: RunConfig, key: str, recorded: Record, model: dict[str, str]) -> None:
    path = f"model.path={cfg.model.path}"
    if recorded["tokenizer"] != model["tokenizer"]:
        raise ConfigError(
            f"{key}: was recorded with another tokenizer than that of {path}, for which its token "
            "ids are other text"
        )
    if cfg.cluster.weight_proof and recorded["weights"] != model["weights"]:
        raise ConfigError(
            f"{key}: was recorded with other weights than those of {path}; the policy that sampled "
            "is the one to begin with (cluster.weight_proof=false trains on them all the same)"
        )
    for name, value in _shared_keys(cfg).items():
        was = recorded["keys"][name]
        if value != was:
            raise ConfigError(
                f"{key}: was recorded with {name}={was}; it is {value} here and must be the same"
            )
