"""What a model with eyes reads beside tokens: features' inputs, positions, and their alignment.

A microbatch goes in, the model's own keywords come out, made by the library's processor and
the model's own methods. It does not know losses or DeepSpeed.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner import batch, distributed
from learner.batch import MicroBatch, Sequence
from rollout.pictures import Picture
from rollout.processor import PictureProcessor

DUMMY_SIDE = 32  # pixels


class ImageInputs:
    """The processor of a model, and its model's own way with positions.

    Args:
        processor: of the model's folder.
        trunk: the Hugging Face model.
    """

    def __init__(self, processor: PictureProcessor, trunk: Any) -> None:
        self._processor = processor
        # Models with positions in three dimensions (Qwen's) know them by a method of their own.
        inner = getattr(trunk, "model", trunk)
        self._rope = getattr(inner, "get_rope_index", None)

    @classmethod
    def of(cls, folder: str | Path, trunk: Any) -> ImageInputs | None:
        """None for a model of text alone."""
        processor = PictureProcessor.load(folder)
        return cls(processor, trunk) if processor else None

    def check(self, sequence: Sequence) -> None:
        """Alignment: as many picture tokens as its pictures have features.

        Raises:
            ValueError: both numbers.
        """
        there = int(np.count_nonzero(np.asarray(sequence.token_ids) == self._processor.token_id))
        wanted = sum(self._processor.features(picture) for picture in sequence.pictures)
        if there != wanted:
            raise ValueError(
                f"a sequence has {there} picture tokens and {len(sequence.pictures)} pictures "
                f"with {wanted} features; a picture and its tokens must stay together"
            )

    def read(self, microbatch: MicroBatch, device: torch.device) -> dict[str, torch.Tensor]:
        """The model's keywords for a microbatch's pictures; empty without pictures.

        Besides the processor's own (pixel_values, …) position_ids int64 [4, R, L] for a model
        with positions in three dimensions: those of the text, then its three.
        """
        if not microbatch.pictures:
            return {}
        found = self._processor.inputs(microbatch.pictures)
        if self._rope is not None:
            found["position_ids"] = self._positions(microbatch, found["image_grid_thw"])
        return {name: value.to(device, non_blocking=True) for name, value in found.items()}

    def _positions(self, microbatch: MicroBatch, grids: torch.Tensor) -> torch.Tensor:
        """Positions of each sequence on its own, laid out as the microbatch's rows are."""
        assert self._rope is not None
        flat = microbatch.token_ids.cpu().reshape(-1)
        positions = microbatch.position_ids.cpu().expand(4, -1, -1).clone()
        rows = positions.view(4, -1)
        seen = 0
        for start, length, count in zip(
            microbatch.sequence_starts, microbatch.lengths, microbatch.picture_counts, strict=True
        ):
            ids = flat[start : start + length].unsqueeze(0)
            kinds = (ids == self._processor.token_id).int()
            own = grids[seen : seen + count] if count else None
            found, _ = self._rope(ids, mm_token_type_ids=kinds, image_grid_thw=own)
            rows[1:, start : start + length] = found[:, 0]
            seen += count
        return positions

    @cached_property
    def dummy(self) -> MicroBatch:
        """A row with a picture: a pass through the eyes whose result has no weight."""
        shade = np.arange(DUMMY_SIDE * DUMMY_SIDE * 3, dtype=np.uint8)  # Idefics drops all-zero
        picture = Picture.of(shade.reshape(DUMMY_SIDE, DUMMY_SIDE, 3))
        tokens = self._processor.tokens(picture)
        return batch.empty([*tokens, tokens[-1]], (picture,))


def pad_to_lockstep(microbatches: list[MicroBatch], eyes: ImageInputs | None) -> list[MicroBatch]:
    """What this rank runs, so that every rank runs as many passes through the same modules.

    ZeRO's collectives hang otherwise. Where any rank has a picture, every pass has one.
    """
    look = any(m.pictures for m in microbatches)
    rounds, look = distributed.all_max([len(microbatches), look])
    blank = eyes.dummy if look and eyes else batch.empty()
    filled = [
        batch.beside(m, eyes.dummy) if look and eyes and not m.pictures else m for m in microbatches
    ]
    return filled + [blank] * (int(rounds) - len(microbatches))
