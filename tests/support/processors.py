"""Processors of released models, in a small size: their own code on a tiny tokenizer."""

from __future__ import annotations

from transformers import (
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    PreTrainedTokenizerFast,
)

from learner.tiny_tokenizer import train_tokenizer
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer

SIDE = 28  # pixels of a picture, or of a tile; they have 4 features


def gemma3() -> Renderer:
    """Gemma 3's: a picture's text begins and ends with newlines, as messages do."""
    template = (
        "{% for m in messages %}<user>{{ m['role'] }}\n{% for p in m['content'] %}"
        "{{ '<boi>' if p['type'] == 'image' else p['text'] }}{% endfor %}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<user>assistant\n{% endif %}"
    )
    tokenizer = _tokenizer(
        {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<soft>", "end_token": "<end>"},
        template,
    )
    pixels = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    library = Gemma3Processor(pixels, tokenizer, chat_template=template, image_seq_length=4)
    return Renderer(tokenizer, [tokenizer.eos_token_id], PictureProcessor(library))


def internvl() -> PictureProcessor:
    """InternVL's, whose processor cuts pictures into tiles and whose image processor does not."""
    tokenizer = _tokenizer(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<context>",
            "video_token": "<video>",
        }
    )

    class WithoutVideos(InternVLProcessor):
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
            return type(argument)

    class Videos:
        model_input_names: tuple[str, ...] = ()

    pixels = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return PictureProcessor(WithoutVideos(pixels, tokenizer, Videos(), image_seq_length=4))


def _tokenizer(named: dict[str, str], template: str | None = None) -> PreTrainedTokenizerFast:
    trained = train_tokenizer(["one two \n \n\n \n\n\n \n\n\n\n user assistant"] * 9)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained.backend_tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<user>"],
        extra_special_tokens=named,
        chat_template=template,
    )
