"""Messages to tokens and back, by the model's own chat template.

Law 1: a sampled answer is never tokenised again. What stands between an answer and the next
answer (`follow`) is cut from the template by a sentinel and tokenised alone; the rest of the
segment stays as it was sampled. It does not know environments or engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from envs.base import Message

SENTINEL = "CARDINALANSWER"


class Renderer:
    """A tokenizer and its chat template.

    stop_ids: token ids that end an answer.
    forbidden: token ids that an answer never holds (padding, role and image tokens), masked
        alike in the engine and in the learner.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path} has no chat template; "
                "a policy plays in messages, so its tokenizer_config.json must define one"
            )
        self.tokenizer = tokenizer
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self.forbidden = tuple(sorted(set(tokenizer.all_special_ids) - set(self.stop_ids)))
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

        tokenizer = AutoTokenizer.from_pretrained(folder)
        stop_ids = {tokenizer.eos_token_id} - {None}
        try:
            eos = GenerationConfig.from_pretrained(folder).eos_token_id
        except OSError:  # the file is optional
            eos = None
        stop_ids |= set(eos if isinstance(eos, list) else [eos]) - {None}
        if not stop_ids:
            raise ValueError(f"tokenizer in {folder} has no eos_token, so no answer could end")
        return cls(tokenizer, sorted(stop_ids))

    def prompt(self, message: str) -> list[int]:
        """Tokens of a first user message, up to where the answer begins."""
        text = self._template([{"role": "user", "content": message}])
        return self._encode(text)

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
        self, messages: Sequence[Message]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids int32 [T] and action mask bool [T] of a conversation to imitate.

        Built turn by turn like an episode's segment, so that SFT and PPO see the same tokens.
        """
        ids: list[int] = []
        mask: list[bool] = []
        answer: list[int] = []
        for message in messages:
            if message["role"] == "assistant":
                part, train = self.answer(message["content"]), message["train"]
                answer = part
            else:
                content = message["content"]
                part = self.follow(content, answer) if ids else self.prompt(content)
                train = False
            ids += part
            mask += [train] * len(part)
        return np.asarray(ids, np.int32), np.asarray(mask, np.bool_)

    def _around_message(self) -> tuple[str, str]:
        """The template's text between an answer and the next message, and after that message."""
        question = {"role": "user", "content": "x"}
        answer = {"role": "assistant", "content": SENTINEL}
        text = self._template([question, answer, {"role": "user", "content": SENTINEL}])
        parts = text.split(SENTINEL)
        if len(parts) != 3:
            raise ValueError(
                f"chat template of {self.tokenizer.name_or_path} does not repeat each message "
                "once and in order, so turns cannot be appended to sampled tokens"
            )
        return parts[1], parts[2]

    def _template(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
