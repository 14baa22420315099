"""A model's inputs for the pictures of a microbatch, and their alignment with its tokens.

Input: a microbatch. Output: the model's keywords (pixel values, positions), made by the
library's processor and the model's own methods.
"""

from __future__ import annotations

import inspect
import threading
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from configs.schema import FLASH_ATTENTION
from learner import batch, distributed
from learner.batch import MicroBatch, Sequence
from learner.model import rope_index
from rollout.pictures import Picture
from rollout.processor import PictureProcessor

DUMMY_SIDE = 32  # pixels


class ImageInputs:
    """Makes the inputs of a vision-language model.

    Args:
        processor: of the model's folder.
        trunk: the Hugging Face model.
    """

    def __init__(self, processor: PictureProcessor, trunk: PreTrainedModel) -> None:
        self._processor = processor
        self._name = type(trunk).__name__
        self._rope_index = rope_index(trunk)
        self._token_types = _token_types(trunk)
        # A picture's tokens are made by a tokenizer, which one thread may use at a time; the next
        # batch is packed on another.
        self._expanding = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path, trunk: PreTrainedModel) -> ImageInputs | None:
        """Those of a model in a folder; None for a language model without vision."""
        processor = PictureProcessor.load(folder)
        return cls(processor, trunk) if processor else None

    def check_alignment(self, sequence: Sequence) -> None:
        """Alignment: a sequence has as many picture tokens as its pictures have features.

        Raises:
            ValueError: both numbers.
        """
        is_picture = np.asarray(sequence.token_ids) == self._processor.feature_id
        tokens = int(np.count_nonzero(is_picture))
        with self._expanding:
            features = sum(self._processor.features(picture) for picture in sequence.pictures)
        if tokens != features:
            raise ValueError(
                f"a sequence has {tokens} picture tokens and {len(sequence.pictures)} pictures "
                f"with {features} features; a picture and its tokens must stay together"
            )

    def model_inputs(self, microbatch: MicroBatch, device: torch.device) -> dict[str, torch.Tensor]:
        """The model's keywords for a microbatch's pictures; empty without pictures.

        Besides the processor's own (pixel_values, …), for a model with positions in three
        dimensions position_ids int64 [4, R, L]: the text's, then the three dimensions'; for one
        that reads a picture in both directions int64 [R, L], 1 where a token is a picture's.

        Raises:
            ValueError: the model's positions are of another kind.
        """
        if not microbatch.pictures:
            return {}
        inputs = self._processor.inputs(microbatch.pictures)
        if self._rope_index is not None:
            if "image_grid_thw" not in inputs:
                raise ValueError(
                    f"{self._name} takes positions in several dimensions, and its processor gives "
                    f"{', '.join(inputs)} without the image_grid_thw that they are made of"
                )
            inputs["position_ids"] = self._positions(microbatch, inputs["image_grid_thw"])
        if self._token_types is not None:
            is_picture = microbatch.token_ids.cpu() == self._processor.feature_id
            inputs[self._token_types] = is_picture.long()
        return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}

    def _positions(self, microbatch: MicroBatch, grids: torch.Tensor) -> torch.Tensor:
        """Positions of each sequence on its own, in the microbatch's rows."""
        assert self._rope_index is not None
        flat = microbatch.token_ids.cpu().reshape(-1)
        positions = microbatch.position_ids.cpu().expand(4, -1, -1).clone()
        rows = positions.view(4, -1)
        first = 0  # of the sequence's pictures
        for start, length, count in zip(
            microbatch.sequence_starts, microbatch.lengths, microbatch.picture_counts, strict=True
        ):
            ids = flat[start : start + length].unsqueeze(0)
            token_types = (ids == self._processor.feature_id).int()
            grid = grids[first : first + count] if count else None
            own, _ = self._rope_index(ids, mm_token_type_ids=token_types, image_grid_thw=grid)
            if len(own) != 3:
                raise ValueError(
                    f"{self._name} takes positions of pictures in {len(own)} dimensions; they must "
                    "be in 3"
                )
            rows[1:, start : start + length] = own[:, 0]
            first += count
        return positions

    @cached_property
    def dummy(self) -> MicroBatch:
        """A row with a picture, for a pass through the vision tower whose result is discarded."""
        shade = np.arange(DUMMY_SIDE * DUMMY_SIDE * 3, dtype=np.uint8)  # Idefics drops all-zero
        picture = Picture.of(shade.reshape(DUMMY_SIDE, DUMMY_SIDE, 3))
        with self._expanding:
            tokens = self._processor.tokens(picture)
        return batch.dummy([*tokens, tokens[-1]], (picture,))


def _token_types(trunk: PreTrainedModel) -> str | None:
    """The keyword that marks tokens of pictures for attention in both directions (Gemma's).

    None where a model makes its attention masks without; Gemma 3n takes one that it ignores.

    Raises:
        ValueError: its attention, FlashAttention, reads in one direction only.
    """
    masks = getattr(type(trunk), "create_masks_for_generate", None)
    names = inspect.signature(masks).parameters if masks else ()
    mark = next((n for n in ("token_type_ids", "mm_token_type_ids") if n in names), None)
    if mark is None:
        return None
    text = trunk.config.get_text_config()
    both_ways = mark == "token_type_ids" or getattr(text, "use_bidirectional_attention", None)
    if both_ways and trunk.config._attn_implementation in FLASH_ATTENTION:
        raise ValueError(
            f"{type(trunk).__name__} reads a picture in both directions, which FlashAttention does "
            "not; model.attention must be sdpa or eager"
        )
    return mark


def check_pictures(folder: Path, trunk: PreTrainedModel) -> None:
    """Make the inputs of one picture, without the model's weights.

    Raises:
        ValueError: they cannot be made.
    """
    inputs = ImageInputs.load(folder, trunk)
    if inputs is not None:
        inputs.model_inputs(inputs.dummy, torch.device("cpu"))


def pad_to_lockstep(
    microbatches: list[MicroBatch], image_inputs: ImageInputs | None
) -> list[MicroBatch]:
    """This rank's microbatches, padded so that every rank runs as many passes of one kind.

    ZeRO's collectives hang otherwise. Where any rank has a picture, every pass has one.
    """
    own_pictures = any(m.pictures for m in microbatches)
    passes, any_pictures = distributed.all_max([len(microbatches), own_pictures])
    padding = int(passes) - len(microbatches)
    if not (any_pictures and image_inputs):
        return microbatches + [batch.dummy()] * padding
    dummy = image_inputs.dummy
    padded = [m if m.pictures else batch.append(m, dummy) for m in microbatches]
    return padded + [dummy] * padding
