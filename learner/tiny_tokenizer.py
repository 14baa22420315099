"""The tokenizer of a tiny policy, trained on a corpus; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
