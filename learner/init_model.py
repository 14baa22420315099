"""A tiny random policy: from a corpus to a plain Hugging Face model folder.

The tokenizer is trained on the corpus; the model is a random Llama, or for environments with
pictures a random Idefics3 with its processor. Equal configuration and corpus give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from configs.schema import RunConfig, TinyVisionConfig
from learner.export import share_weights
from learner.tiny_tokenizer import IMAGE, VISION_CHAT_TEMPLATE, train_tokenizer

logging.disable_progress_bar()


def tiny_processor(
    tokenizer: PreTrainedTokenizerFast, vision: TinyVisionConfig
) -> Idefics3Processor:
    """Idefics3's processor, without tiling: pictures up to image_size a side."""
    side = {"longest_edge": vision.image_size}
    pixels = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    tokens = (vision.image_size // vision.patch_size // vision.merge) ** 2
    return Idefics3Processor(
        pixels, tokenizer, image_seq_len=tokens, chat_template=VISION_CHAT_TEMPLATE
    )


def init_model(
    folder: str | Path, cfg: RunConfig, corpus: Iterable[str], vision: bool = False
) -> None:
    """Write a random model of `model.init`'s size, with its tokenizer (and processor).

    Args:
        folder: to be made.
        cfg: model.init, rollout.context_tokens and seed are read.
        corpus: texts with every word that the policy will read or need.
        vision: whether it takes pictures.

    Raises:
        ValueError: sizes of the vision tower that do not divide.
    """
    tokenizer = train_tokenizer(corpus, vision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        model = tiny_model(cfg, tokenizer)
    model.save_pretrained(folder)
    share_weights(Path(folder))
    if vision:
        tiny_processor(tokenizer, cfg.model.init.vision).save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)


def tiny_model(cfg: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The random model; a vision-language model if the tokenizer has tokens for pictures.

    Raises:
        ValueError: sizes of the vision tower that do not divide.
    """
    init = cfg.model.init
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=init.hidden,
        intermediate_size=init.mlp,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        num_key_value_heads=init.heads,
        max_position_embeddings=cfg.rollout.context_tokens,
        bos_token_id=None,
        tie_word_embeddings=False,
        **ids,
    )
    image_token = tokenizer.get_vocab().get(IMAGE)
    model: PreTrainedModel
    if image_token is None:
        model = LlamaForCausalLM(text)
    else:
        model = Idefics3ForConditionalGeneration(_vision_config(text, image_token, init.vision))
    model.generation_config = GenerationConfig(**ids)
    return model


def _vision_config(text: LlamaConfig, image_token: int, vision: TinyVisionConfig) -> Idefics3Config:
    if vision.image_size % (vision.patch_size * vision.merge):
        raise ValueError(
            f"model.init.vision.image_size is {vision.image_size}; it must be a multiple of "
            f"patch_size * merge = {vision.patch_size * vision.merge}"
        )
    tower = {
        "hidden_size": vision.hidden,
        "intermediate_size": vision.mlp,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }
    return Idefics3Config(
        vision_config=tower,
        text_config=text.to_dict(),
        image_token_id=image_token,
        scale_factor=vision.merge,
        pad_token_id=text.pad_token_id,
        tie_word_embeddings=False,
    )
