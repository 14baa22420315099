"""Messages and pictures to tokens and back, by the model's own chat template and processor.

Token-in-token-out: a sampled answer is never tokenised again. Only the text between two answers
(`follow_up`) is cut from the template, by a sentinel, and tokenised alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from envs.base import Message
from rollout.pictures import Picture
from rollout.processor import PictureProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "CARDINALANSWER"
# Added to the logits of forbidden tokens by engine and learner alike; vLLM clamps a logit bias
# to [-100, 100].
FORBIDDEN_BIAS = -100.0


class Prompt(NamedTuple):
    """The prompt that begins a segment.

    token_ids: as the model reads it, every picture expanded to its own tokens.
    unexpanded_ids: as an engine takes it together with the pictures, each one placeholder.
    """

    token_ids: list[int]
    unexpanded_ids: list[int]


class Renderer:
    """A tokenizer and its chat template, and the processor of a vision-language model.

    stop_ids: token ids that end an answer.
    forbidden: token ids that an answer never holds (padding, role and image tokens); engine and
        learner add FORBIDDEN_BIAS to their logits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        processor: PictureProcessor | None = None,
    ) -> None:
        self.processor = processor
        self._chat = tokenizer if processor is None else processor.processor
        if not self._chat.chat_template:
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
            ValueError: the model is one of text alone, its template gives a picture no token,
                or a picture is too large for its processor.
        """
        ids = self._encode(self._template([self._message("user", message, len(pictures))]))
        if not pictures:
            return Prompt(ids, ids)
        if self.processor is None:
            raise ValueError(
                f"{self.tokenizer.name_or_path} is a model of text alone; an environment that "
                "shows pictures needs a vision-language model"
            )
        return Prompt(self.processor.expand(ids, pictures), ids)

    def follow_up(self, message: str, answer: Sequence[int]) -> list[int]:
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
        ids = cast("list[int]", token_ids)  # any sequence will do
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def demonstration(
        self, messages: Sequence[Message], pictures: Sequence[Picture] = ()
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids int32 [T] and action mask bool [T] of a conversation to imitate.

        The pictures belong to its first message. It is built turn by turn, like the segment of
        an episode, so that SFT and PPO see the same tokens.
        """
        ids: list[int] = []
        mask: list[bool] = []
        answer: list[int] = []
        for message in messages:
            text, train = message["content"], False
            if message["role"] == "assistant":
                part = answer = self.answer(text)
                train = message["train"]
            elif ids:
                part = self.follow_up(text, answer)
            else:
                part = self.prompt(text, pictures).token_ids
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

    def _message(self, role: str, text: str, pictures: int = 0) -> dict[str, object]:
        """A message as templates want it: parts with a processor, plain text without."""
        if self.processor is None:
            return {"role": role, "content": text}
        parts: list[dict[str, str]] = [{"type": "image"}] * pictures
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    def _template(self, messages: list[dict[str, object]]) -> str:
        rendered = self._chat.apply_chat_template(
            messages,  # type: ignore[arg-type] # its annotation has no messages of parts
            tokenize=False,
            add_generation_prompt=True,
        )
        return str(rendered)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
