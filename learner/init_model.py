"""A tiny policy from scratch: a corpus in, a plain Hugging Face model folder out.

The tokenizer is trained on the environment's own text; the model is a random Llama. The same
configuration and corpus give the same bytes. It does not know environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.schema import RunConfig

PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<user>", "<assistant>"
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


def train_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges stay inside numbers and words.

    Any text can be encoded, because every byte is a token; decoding gives the text back.
    """
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
        special_tokens=[PAD, EOS, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_spaces(corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _with_spaces(corpus: Iterable[str]) -> Iterator[str]:
    """Each text, and its words with a space before them, as they stand after another word."""
    for text in corpus:
        yield text
        yield " " + " ".join(text.split())


def init_model(folder: str | Path, cfg: RunConfig, corpus: Iterable[str]) -> None:
    """Write a random Llama of `model.init`'s size, with its tokenizer.

    Args:
        folder: is made.
        cfg: model.init, rollout.context_tokens and seed are read.
        corpus: texts that hold every word the policy will meet or need.
    """
    tokenizer = train_tokenizer(corpus)
    init = cfg.model.init
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
