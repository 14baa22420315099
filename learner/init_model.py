"""A tiny random policy: from a corpus to a plain Hugging Face model folder.

The tokenizer is trained on the corpus; the model is a random Llama, or for environments with
pictures a random Idefics3 with its processor. Equal configuration and corpus give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
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

logging.disable_progress_bar()

PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<user>", "<assistant>"
IMAGE = "<image>"
# The names are those of Idefics3's processor.
VISION_TOKENS = ("<fake_token_around_image>", IMAGE, "<global-img>", "<end_of_utterance>")
# Numbers and words are single tokens, with the space before them; operators stand alone.
PIECES = r" ?\p{N}+| ?\p{L}+|[^\p{N}\p{L}\s]|\s+"
MAX_VOCABULARY = 4096
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ '<assistant>' + m['content'] + '<eos>' }}"
    "{% else %}{{ '<user>' + m['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
# Content is a list of parts where there are pictures: {"type": "image"} or "text".
VISION_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def train_tokenizer(corpus: Iterable[str], vision: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges stay inside numbers and words.

    Any text can be encoded, because every byte is a token; decoding gives the text back.
    With vision it has the tokens around pictures, and a template for messages with pictures.
    """
    extra = VISION_TOKENS if vision else ()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=[PAD, EOS, USER, ASSISTANT, *extra],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_spaces(corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT, *extra],
        chat_template=VISION_CHAT_TEMPLATE if vision else CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _with_spaces(corpus: Iterable[str]) -> Iterator[str]:
    """Each text, and again with a space before every word, as inside a sentence."""
    for text in corpus:
        yield text
        yield " " + " ".join(text.split())


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
