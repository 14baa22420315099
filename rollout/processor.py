"""A model's own image processor: the tokens of a picture, and the tensors of its pixels.

Expansion, resizing and normalisation are the library's; no model is treated apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rollout.pictures import Picture

if TYPE_CHECKING:
    import torch
    from transformers import ProcessorMixin

FILES = ("processor_config.json", "preprocessor_config.json")  # a vision model has one of them


class PictureProcessor:
    """Turns pictures into the tokens and the inputs of one model.

    placeholder: text of the token that stands for a picture in a rendered chat template.
    token_id: its id.
    feature_id: that of the tokens which carry a picture's features; most often the same.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder: str = processor.image_token  # type: ignore[attr-defined] # `load` checks
        self.token_id = int(self.tokenizer.convert_tokens_to_ids(self.placeholder))
        marks = [i for i in getattr(processor, "image_token_ids", ()) if i is not None]
        self.feature_id = marks[0] if marks and self.token_id not in marks else self.token_id
        self._expansions: dict[tuple[int, int], tuple[list[int], str]] = {}  # by size

    @classmethod
    def load(cls, folder: str | Path) -> PictureProcessor | None:
        """The processor of a Hugging Face model folder; None for a model of text alone.

        Raises:
            ValueError: the processor is for something else than text with pictures.
        """
        if not any((Path(folder) / name).is_file() for name in FILES):
            return None
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=False, mistral_format=False
        )
        if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
            raise ValueError(
                f"{folder}: its {type(processor).__name__} has no image_processor with an "
                "image_token, so pictures have no place among its tokens"
            )
        return cls(processor)

    def text(self, picture: Picture) -> str:
        """What stands in a conversation for a picture: the text of `tokens`.

        Its ends may join with what stands beside it, so a conversation is tokenised with it.

        Raises:
            ValueError: it is larger than the processor's limit.
        """
        return self._expansion(picture)[1]

    def tokens(self, picture: Picture) -> list[int]:
        """The tokens that stand for a picture; they depend on its size alone.

        Raises:
            ValueError: it is larger than the processor's limit.
        """
        return self._expansion(picture)[0]

    def _expansion(self, picture: Picture) -> tuple[list[int], str]:
        size = (picture.height, picture.width)
        if size not in self._expansions:
            self._refuse_large(picture)
            encoded = self.processor(
                text=[self.placeholder], images=[picture.to_pil()], add_special_tokens=False
            )
            self._require_same(encoded, picture)
            ids = [int(token) for token in encoded["input_ids"][0]]
            self._expansions[size] = ids, self._spelled(ids)
        return self._expansions[size]

    def _spelled(self, ids: list[int]) -> str:
        """The text of tokens, which is tokenised into the same."""
        text = str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        if self.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise ValueError(
                f"the tokens of a picture read {text[:40]!r}, which the tokenizer gives other "
                "tokens, so a conversation with a picture cannot be tokenised"
            )
        return text

    def features(self, picture: Picture) -> int:
        """Number of the picture's tokens that carry a feature."""
        return self.tokens(picture).count(self.feature_id)

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """The model's keywords (pixel_values, …) for pictures in the order of their tokens."""
        import torch  # seconds, which rendering does not need

        features = self._features(pictures, return_tensors="pt")
        return {name: value for name, value in features.items() if torch.is_tensor(value)}

    def _features(self, pictures: Sequence[Picture], **options: str) -> dict[str, object]:
        """What the image processor makes of pictures, with the processor's own options.

        The processor itself takes pictures only with their text, and nests them by model.
        """
        processor = self.processor
        merged = processor._merge_kwargs(
            processor.valid_processor_kwargs,  # type: ignore[arg-type] # it takes the class
            processor.tokenizer.init_kwargs,
            **options,
        )
        images = [picture.to_pil() for picture in pictures]
        features = processor.image_processor(images=images, **merged["images_kwargs"])
        unused = processor.unused_input_names
        return {name: value for name, value in features.items() if name not in unused}

    def _require_same(self, encoded: Mapping[str, object], picture: Picture) -> None:
        """Refuse a processor that gives a picture other pixels with its tokens than without."""
        both = encoded, self._features([picture])
        own, other = (_count(features.get("pixel_values")) for features in both)
        if own != other:
            raise ValueError(
                f"{type(self.processor).__name__} gives a picture of {picture.width} x "
                f"{picture.height} pixels {own} values with its tokens and {other} without; a "
                "picture and its tokens must stay together"
            )

    def _refuse_large(self, picture: Picture) -> None:
        side, longest = self._side, max(picture.height, picture.width)
        if side is not None and longest > side and not self._tiles:
            raise ValueError(
                f"a picture is {picture.width} x {picture.height} pixels; the model's processor "
                f"would shrink what is over {side} a side (see the environment's image_size)"
            )

    @cached_property
    def _side(self) -> int | None:
        """Pixels of the side of what the model's vision tower reads at once; None without."""
        size = self.processor.image_processor.size
        sides = [getattr(size, name, None) for name in ("longest_edge", "height", "width")]
        known = [int(side) for side in sides if side]
        # In Qwen's processors longest_edge is an area, in pixels of the whole picture.
        return min(known) if known and min(known) < 100_000 else None

    @cached_property
    def _tiles(self) -> bool:
        """Whether a larger picture is read in tiles, so that twice the side gets more tokens."""
        assert self._side is not None
        grey = [Image.new("RGB", (n, n), "grey") for n in (self._side, 2 * self._side)]
        once, twice = (self.processor(text=[self.placeholder], images=[one]) for one in grey)
        return len(twice["input_ids"][0]) > len(once["input_ids"][0])


def _count(values: object) -> int:
    """Number of values in arrays or tensors, however they are nested."""
    if isinstance(values, list | tuple):
        return sum(_count(part) for part in values)
    return math.prod(getattr(values, "shape", (0,)))
