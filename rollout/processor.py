"""A model's own processor: what a picture is in tokens, and what it is in numbers.

Nothing per model stands here: expansion, resizing and normalisation are the library's. It
does not know messages, engines or the model's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rollout.pictures import Picture

FILES = ("processor_config.json", "preprocessor_config.json")  # one of them: the model has eyes


class PictureProcessor:
    """Pictures for one model.

    placeholder: the token's text that stands for a picture in a rendered chat template.
    token_id: of the tokens that become the picture's features.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder = processor.image_token
        self.token_id = int(self.tokenizer.convert_tokens_to_ids(self.placeholder))
        self._expansions: dict[tuple[int, int], list[int]] = {}

    @classmethod
    def load(cls, folder: str | Path) -> PictureProcessor | None:
        """Of a Hugging Face model folder; None for a model without eyes.

        Raises:
            ValueError: the processor is one of another kind than text with pictures.
        """
        if not any((Path(folder) / name).is_file() for name in FILES):
            return None
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(folder)
        if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
            raise ValueError(
                f"{folder}: its {type(processor).__name__} has no image_processor with an "
                "image_token, so pictures have no place among its tokens"
            )
        return cls(processor)

    def expand(self, token_ids: Sequence[int], pictures: Sequence[Picture]) -> list[int]:
        """Tokens with each placeholder replaced by its picture's own tokens, in order.

        Raises:
            ValueError: as many placeholders as pictures are not there, or as `tokens`.
        """
        places = [i for i, token in enumerate(token_ids) if token == self.token_id]
        if len(places) != len(pictures):
            raise ValueError(
                f"a prompt holds {len(places)} of the picture token {self.placeholder} for "
                f"{len(pictures)} pictures; the chat template must place one for each"
            )
        expanded, start = [], 0
        for place, picture in zip(places, pictures, strict=True):
            expanded += [*token_ids[start:place], *self.tokens(picture)]
            start = place + 1
        return expanded + list(token_ids[start:])

    def tokens(self, picture: Picture) -> list[int]:
        """What stands for a picture among a model's tokens; depends on its size alone.

        Raises:
            ValueError: it is larger than the processor's limit.
        """
        size = (picture.height, picture.width)
        if size not in self._expansions:
            self._refuse_large(picture)
            found = self.processor(
                text=[self.placeholder], images=[image(picture)], add_special_tokens=False
            )
            self._expansions[size] = [int(token) for token in found["input_ids"][0]]
        return self._expansions[size]

    def features(self, picture: Picture) -> int:
        """How many of the picture's tokens carry a feature."""
        return self.tokens(picture).count(self.token_id)

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """The model's keywords for pictures in the order of their tokens (pixel_values, …)."""
        found = self.processor.image_processor(
            images=[image(picture) for picture in pictures], return_tensors="pt"
        )
        return {name: value for name, value in found.items() if torch.is_tensor(value)}

    def limit(self) -> int | None:
        """Longest side that the processor takes without shrinking, pixels; None: no such limit."""
        size = self.processor.image_processor.size
        sides = [getattr(size, name, None) for name in ("longest_edge", "height", "width")]
        known = [int(side) for side in sides if side]
        # Qwen's processors count pixels of the whole picture in longest_edge.
        return min(known) if known and min(known) < 100_000 else None

    def _refuse_large(self, picture: Picture) -> None:
        limit, longest = self.limit(), max(picture.height, picture.width)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a picture is {picture.width} x {picture.height} pixels; the model's processor "
                f"would shrink what is over {limit} a side (see the environment's image_size)"
            )


def image(picture: Picture) -> Image.Image:
    """The picture for libraries that take Pillow's images."""
    return Image.fromarray(picture.pixels())
