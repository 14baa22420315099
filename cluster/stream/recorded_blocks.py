"""Recorded blocks: the trajectories of each PPO update on disk, a part for each learner rank.

FOLDER/000001/ has those of update 1. Each part names its place, the model that began the phase and
the keys that a learner must share, so that blocks of another model or place are refused.
"""

from __future__ import annotations

import json
import re
import shutil
from hashlib import blake2b
from pathlib import Path

from cluster.demonstrations.fingerprint import PIECES, file_fingerprint
from cluster.failures import RunFailure
from configs.load import ConfigError
from configs.model_folder import VOCABULARIES, find_model
from configs.schema import RunConfig
from report.metrics import Record
from rollout.block_files import parts, read_block, read_metadata, remove_parts, write_block
from rollout.trajectory import Trajectory

FOLDER = "blocks"  # of a run
METADATA = "cardinal"
FORM = {
    "update": int,
    "part": int,
    "parts": int,
    "attempt": str,
    "tokenizer": str,
    "weights": str,
    "keys": dict,
}
HOW = "`cardinal train … ppo.record=true` writes a run's, `cardinal rollout` those of engines alone"


def write_blocks(
    folder: Path, update: int, rank: int, trajectories: list[Trajectory], metadata: Record
) -> None:
    """Record what a rank trains on in an update; metadata as of `metadata_of`."""
    text = json.dumps({"update": update, "part": rank, **metadata}, sort_keys=True)
    write_block(folder / f"{update:06d}", rank, trajectories, {METADATA: text})
    if rank == 0:  # what was recorded before the update was made again: by more ranks, and after it
        remove_parts(folder / f"{update:06d}", metadata["parts"])
        for later in recorded_updates(folder):
            if later > update:
                shutil.rmtree(folder / f"{later:06d}")


def metadata_of(cfg: RunConfig, model: str, parts: int, attempt: str = "") -> Record:
    """What blocks are recorded with.

    Args:
        cfg: of the run, whose keys a learner must share.
        model: folder of the model that began the phase; its fingerprint is kept.
        parts: of each update.
        attempt: at the updates; the parts of one update are all of the same.
    """
    shared = {"parts": parts, "attempt": attempt, "keys": _shared_keys(cfg)}
    return {**shared, **_fingerprint(Path(model))}


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
    names = (file.parent.name for file in folder.glob("*/trajectories-*.arrow"))
    return sorted({int(name) for name in names if re.fullmatch("[0-9]{6,}", name)})


def read_blocks(folder: Path, update: int, rank: int, ranks: int) -> list[Trajectory]:
    """A rank's trajectories of an update.

    Where as many ranks recorded them, each gets its own in their order; else they are dealt out.

    Raises:
        RunFailure: a part is missing or damaged, or was recorded at another place.
    """
    try:
        files = list(_recorded_parts(folder, update))
        if len(files) == ranks:
            return read_block(files[rank])
        return [t for file in files for t in read_block(file)][rank::ranks]
    except ValueError as error:
        raise RunFailure(f"ppo.blocks={folder}: {error}") from error


def _recorded_parts(folder: Path, update: int) -> dict[Path, Record]:
    """The files of an update, in order, and what each was recorded with.

    Raises:
        ValueError: one is missing, damaged or not of this place; one sentence.
    """
    recorded = {file: _metadata(file) for file in parts(folder / f"{update:06d}")}
    if not recorded:
        raise ValueError(f"has no update {update}")
    for part, (file, metadata) in enumerate(recorded.items()):
        if len(recorded) != metadata["parts"]:
            raise ValueError(
                f"update {update} has {len(recorded)} of its {metadata['parts']} parts"
            )
        if (metadata["update"], metadata["part"]) != (update, part):
            raise ValueError(
                f"{file.parent.name}/{file.name} was recorded as part {metadata['part']} of update "
                f"{metadata['update']}; it must lie there"
            )
    if len({metadata["attempt"] for metadata in recorded.values()}) > 1:
        raise ValueError(
            f"update {update} was being recorded again when its run ended: its parts are of two "
            f"attempts; ppo.updates={update - 1} trains on those before it"
        )
    return recorded


def _metadata(file: Path) -> Record:
    """What a part was recorded with, in our form."""
    try:
        metadata: Record = {"attempt": "", **json.loads(read_metadata(file)[METADATA])}
        form = {name: type(value) for name, value in metadata.items()}
    except (KeyError, TypeError, json.JSONDecodeError):
        form = {}
    if form != FORM or metadata["keys"].keys() != _shared_keys(RunConfig()).keys():
        raise ValueError(f"{file.parent.name}/{file.name} is no recorded block; {HOW}")
    return metadata


def check_blocks(cfg: RunConfig) -> None:
    """Refuse `ppo.blocks` that the run cannot train on.

    Raises:
        ConfigError: there are none, one that it would train on is missing, damaged or at another
            place, or they are of another model, tokenizer, schema or of other keys.
    """
    assert cfg.ppo.blocks is not None
    assert cfg.model.path is not None  # configs.contradictions
    key, folder = f"ppo.blocks={cfg.ppo.blocks}", Path(cfg.ppo.blocks)
    if not folder.is_dir():
        raise ConfigError(f"{key}: there is no such folder")
    updates = recorded_updates(folder)
    if not updates:
        raise ConfigError(f"{key}: holds no recorded blocks; {HOW}")
    last = min(updates[-1], cfg.ppo.updates)
    missing = sorted(set(range(1, last + 1)) - set(updates))
    if missing:
        raise ConfigError(
            f"{key}: has no update {missing[0]}, but has {updates[-1]}; all must be there"
        )
    fingerprint = _fingerprint(find_model(cfg.model.path))
    for update in range(1, last + 1):
        try:
            recorded = _recorded_parts(folder, update)
            for file in recorded:
                read_block(file)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        for metadata in recorded.values():
            _check_model(cfg, key, metadata, fingerprint)


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
