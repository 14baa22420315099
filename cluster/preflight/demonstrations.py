"""`cardinal check` of demonstrations: are they there, enough, and can the model read them?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.demonstrations.files import Slice, ignored, naming_data, rows, slices, spread
from cluster.demonstrations.rows import LengthLimit, conversation, rendered_rows
from configs.load import ConfigError
from configs.schema import SFTConfig
from envs.base import Demonstration
from rollout.pictures import Picture
from rollout.renderer import Renderer

EXPERTS = 16  # of its first demonstrations rendered
SLICES, ROWS = 8, 8  # rendered: the first rows of slices spread over all files
READ_ROWS, READ_BYTES = 20_000, 2**28  # read without rendering: rows, and bytes of their pictures


@dataclass(frozen=True)
class DataSample:
    """What the check has seen of the demonstrations.

    rows, files: all that there are.
    read: of them, from the first on: they are conversations.
    rendered: of all, and `dropped` of these for being longer than sft.max_tokens.
    longest: tokens of the longest of these that is kept.
    ignored: names in the folder that are not read.
    pictures: whether one of those rendered has any.
    """

    rows: int
    files: int
    read: int
    rendered: int
    dropped: int
    longest: int
    ignored: tuple[str, ...] = ()
    pictures: bool = False


def check_data(sft: SFTConfig, renderer: Renderer, positions: int | None) -> DataSample:
    """Refuse demonstrations that are not there, cannot be read, or are fewer than a batch.

    Rows are read to the last where there are no more than READ_ROWS; some of all files are
    rendered as the run would render them, pictures included.

    Raises:
        ConfigError: one sentence with the file, the row and what is wrong with it.
    """
    assert sft.data is not None, "the expert's demonstrations need no check"
    with naming_data(sft.data):
        parts = slices(sft.data)
        limit = LengthLimit(positions, sft.max_tokens)
        sampled = [
            row
            for part in spread(parts, SLICES)
            for row in islice(rendered_rows(part, renderer, limit), ROWS)
        ]
        read = _read(parts)
    total = sum(part.rows for part in parts)
    if total < sft.batch_size:
        raise ConfigError(
            f"sft.data={sft.data}: holds {total} demonstrations, sft.batch_size={sft.batch_size}"
        )
    lengths = [len(row.token_ids) for row in sampled if row is not None]
    if len(sampled) == total and not lengths:
        raise ConfigError(
            f"sft.data={sft.data}: all {total} demonstrations are longer than "
            f"sft.max_tokens={sft.max_tokens}"
        )
    files = len({part.file for part in parts})
    dropped = len(sampled) - len(lengths)
    longest = max(lengths, default=0)
    pictures = any(row.pictures for row in sampled if row is not None)
    skipped = tuple(ignored(sft.data))
    return DataSample(total, files, read, len(sampled), dropped, longest, skipped, pictures)


def _read(parts: Iterable[Slice]) -> int:
    """Read rows as conversations, within READ_ROWS and READ_BYTES; how many.

    Raises:
        ConfigError: the first row that is none.
    """
    number, size = 0, 0
    every = ((Path(part.file).parent, *found) for part in parts for found in rows(part))
    for folder, where, row in every:
        if number == READ_ROWS or size >= READ_BYTES:
            break
        try:
            pictures = conversation(row, folder).pictures
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        number, size = number + 1, size + sum(map(len, pictures))
    return number


def check_expert_data(
    first: Iterable[Demonstration], sft: SFTConfig, renderer: Renderer, positions: int | None
) -> None:
    """Render the expert's first demonstrations.

    Raises:
        ConfigError: the model cannot read what it shows.
    """
    limit = LengthLimit(positions, sft.max_tokens)
    for number, one in enumerate(first, 1):
        try:
            pictures = [Picture.of(image) for image in one.images]
            limit.keeps(len(renderer.demonstration(one.messages, pictures)[0]))
        except ValueError as error:
            raise ConfigError(f"the expert's demonstration {number}: {error}") from error
