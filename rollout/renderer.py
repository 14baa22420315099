"""Messages and pictures to tokens and back, by the model's own chat template and processor.

Law 1: a sampled answer is never tokenised again. What stands between an answer and the next
answer (`follow`) is cut from the template by a sentinel and tokenised alone; the rest of the
segment stays as it was sampled. It does not know environments or engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollout.pictures import Picture
from rollout.processor import PictureProcessor

if TYPE_CHECKING:
    from envs.base import Message

SENTINEL = "CARDINALANSWER"
# Added to the logits of forbidden tokens by engine and learner alike; vLLM clamps a logit bias
# to [-100, 100].
FORBIDDEN_BIAS = -100.0


class Prompt(NamedTuple):
    """A first prompt.

    token_ids: as the model sees it, every picture expanded to its own tokens.
    sent: as an engine takes it beside the pictures, each picture one placeholder.
    """

    token_ids: list[int]
    sent: list[int]


class Renderer:
    """A tokenizer and its chat template; with a processor, pictures too.

    stop_ids: token ids that end an answer.
    forbidden: token ids that an answer never holds (padding, role and image tokens), masked
        alike in the engine and in the learner.
    """

    def __init__(
        self, tokenizer: Any, stop_ids: Sequence[int], processor: PictureProcessor | None = None
    ) -> None:
        self.processor = processor
        self._template_of = tokenizer if processor is None else processor.processor
        if not self._template_of.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path} has no chat template; "
                "a policy plays in messages, so its tokenizer_config.json must define one"
            )
        self.tokenizer = tokenizer
        self.stop_ids = tuple(sorted(set(stop_ids)))
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        special |= {processor.token_id} if processor else set()
        self.forbidden = tuple(sorted(special - set(self.stop_ids)))
        self._between, self._after = self._around_message()
        first = self._encode(self._between)[:1]
        self._terminator = (
            first if set(first) <= set(self.stop_ids) and first else [self.stop_ids[0]]
        )

    @classmethod
    def load(cls, folder: str) -> Renderer:
        """Read tokenizer and stop tokens from a Hugging Face model folder.

        Raises:
            ValueError: no chat template, or no end-of-sequence token.
        """
        from transformers import AutoTokenizer, GenerationConfig

        processor = PictureProcessor.load(folder)
        tokenizer = processor.tokenizer if processor else AutoTokenizer.from_pretrained(folder)
        stop_ids = {tokenizer.eos_token_id} - {None}
        try:
            eos = GenerationConfig.from_pretrained(folder).eos_token_id
        except OSError:  # the file is optional
            eos = None
        stop_ids |= set(eos if isinstance(eos, list) else [eos]) - {None}
        if not stop_ids:
            raise ValueError(f"tokenizer in {folder} has no eos_token, so no answer could end")
        return cls(tokenizer, sorted(stop_ids), processor)

    def prompt(self, message: str, pictures: Sequence[Picture] = ()) -> Prompt:
        """A first user message, its pictures before its text, up to where the answer begins.

        Raises:
            ValueError: the model has no eyes, its template gives a picture no token, or a
                picture is too large for its processor.
        """
        sent = self._encode(self._template([self._message("user", message, len(pictures))]))
        if not pictures:
            return Prompt(sent, sent)
        if self.processor is None:
            raise ValueError(
                f"{self.tokenizer.name_or_path} is a model of text alone; an environment that "
                "shows pictures needs a vision-language model"
            )
        return Prompt(self.processor.expand(sent, pictures), sent)

    def follow(self, message: str, answer: Sequence[int]) -> list[int]:
        """Tokens from the end of a sampled answer to where the next answer begins.

        The template's own end-of-answer token is left out when the answer sampled its own.
        """
        ids = self._encode(self._between + message + self._after)
        if answer and answer[-1] in self.stop_ids and ids and ids[0] in self.stop_ids:
            return ids[1:]
        return ids

    def answer(self, text: str) -> list[int]:
        """Tokens of a demonstrated answer, with the token that ends it."""
        return self._encode(text) + self._terminator

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled tokens, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def demonstration(
        self, messages: Sequence[Message], pictures: Sequence[Picture] = ()
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids int32 [T] and action mask bool [T] of a conversation to imitate.

        The pictures belong to its first message. Built turn by turn like an episode's segment,
        so that SFT and PPO see the same tokens.
        """
        ids: list[int] = []
        mask: list[bool] = []
        answer: list[int] = []

        def first(text: str) -> list[int]:
            return self.prompt(text, pictures).token_ids

        for message in messages:
            if message["role"] == "assistant":
                part, train = self.answer(message["content"]), message["train"]
                answer = part
            else:
                content = message["content"]
                part = self.follow(content, answer) if ids else first(content)
                train = False
            ids += part
            mask += [train] * len(part)
        return np.asarray(ids, np.int32), np.asarray(mask, np.bool_)

    def _around_message(self) -> tuple[str, str]:
        """The template's text between an answer and the next message, and after that message."""
        question, next_question = self._message("user", "x"), self._message("user", SENTINEL)
        text = self._template([question, self._message("assistant", SENTINEL), next_question])
        parts = text.split(SENTINEL)
        if len(parts) != 3:
            raise ValueError(
                f"chat template of {self.tokenizer.name_or_path} does not repeat each message "
                "once and in order, so turns cannot be appended to sampled tokens"
            )
        return parts[1], parts[2]

    def _message(self, role: str, text: str, pictures: int = 0) -> dict[str, Any]:
        """A message as templates want it: parts where there is a processor, else plain text."""
        if self.processor is None:
            return {"role": role, "content": text}
        parts: list[dict[str, str]] = [{"type": "image"}] * pictures
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    def _template(self, messages: list[dict[str, Any]]) -> str:
        return self._template_of.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
