"""A model's own image processor: the tokens of a picture, and the tensors of its pixels.

Expansion, resizing and normalisation are the library's; no model is treated apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.pictures import Picture

if TYPE_CHECKING:
    import torch
    from transformers import ProcessorMixin

FILES = ("processor_config.json", "preprocessor_config.json")  # a vision model has one of them


class PictureProcessor:
    """Turns pictures into the tokens and the inputs of one model.

    placeholder: text of the token that stands for a picture in a rendered chat template.
    token_id: its id, which the tokens that carry the picture's features have as well.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder: str = processor.image_token  # type: ignore[attr-defined] # `load` checks
        self.token_id = int(self.tokenizer.convert_tokens_to_ids(self.placeholder))
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

        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
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
            ids = [int(token) for token in encoded["input_ids"][0]]
            self._expansions[size] = ids, self._spelled(ids)
        return self._expansions[size]

    def _spelled(self, ids: list[int]) -> str:
        """The text of tokens, which is tokenised into the same."""
        added = self.tokenizer.added_tokens_decoder
        text = "".join(
            "".join(added[i].content for i in run)
            if spelled
            else self.tokenizer.decode(list(run), clean_up_tokenization_spaces=False)
            for spelled, run in groupby(ids, added.__contains__)
        )
        if self.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise ValueError(
                f"the tokens of a picture read {text[:40]!r}, which the tokenizer gives other "
                "tokens, so a conversation with a picture cannot be tokenised"
            )
        return text

    def features(self, picture: Picture) -> int:
        """Number of the picture's tokens that carry a feature."""
        return self.tokens(picture).count(self.token_id)

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """The model's keywords (pixel_values, …) for pictures in the order of their tokens."""
        import torch  # seconds, which rendering does not need

        features = self.processor.image_processor(
            images=[picture.to_pil() for picture in pictures], return_tensors="pt"
        )
        return {name: value for name, value in features.items() if torch.is_tensor(value)}

    def limit(self) -> int | None:
        """Longest side that the processor does not shrink, pixels; None without a limit."""
        size = self.processor.image_processor.size
        sides = [getattr(size, name, None) for name in ("longest_edge", "height", "width")]
        known = [int(side) for side in sides if side]
        # In Qwen's processors longest_edge is an area, in pixels of the whole picture.
        return min(known) if known and min(known) < 100_000 else None

    def _refuse_large(self, picture: Picture) -> None:
        limit, longest = self.limit(), max(picture.height, picture.width)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a picture is {picture.width} x {picture.height} pixels; the model's processor "
                f"would shrink what is over {limit} a side (see the environment's image_size)"
            )
