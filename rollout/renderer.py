"""Messages and pictures to tokens and back, by the model's own chat template and processor.

Token-in-token-out: a sampled answer is never tokenised again; only the text between two answers
(`follow_up`) is. What is rendered is what the template gives for the whole conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.model_folder import VOCABULARIES, holds_tokenizer
from envs.base import Message
from rollout.answer_format import ANSWERS, QUESTIONS, answer_format
from rollout.chat_template import ChatMessage, ChatTemplate, common_length
from rollout.control_tokens import ControlTokens
from rollout.messages import check_messages
from rollout.pictures import Picture
from rollout.processor import PictureProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Added to the logits of forbidden tokens by engine and learner alike; vLLM clamps a logit bias
# to [-100, 100].
FOLLOW_UPS = 1024  # messages between answers whose tokens are kept
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

    stop_ids: token ids that end an answer: those given, and the one that the template writes.
    forbidden: token ids that an answer never holds: padding and its like, what the template
        writes between answers but not into them (roles), and pictures. Engine and learner add
        FORBIDDEN_BIAS to their logits.
    appends: a conversation grows by `follow_up`. Where it is False the template writes earlier
        answers anew (without their reasoning, say), so every turn has a `prompt` of its own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        processor: PictureProcessor | None = None,
        rows: int | None = None,
    ) -> None:
        """Prepare for a model with so many rows of embeddings; None where it is made to fit.

        Raises ValueError where answers could not be begun, ended or continued.
        """
        self.tokenizer, self.processor = tokenizer, processor
        self._template = ChatTemplate(tokenizer, processor)
        self._control = ControlTokens(tokenizer, self._template.source)
        self._format = answer_format(self._template, self._control)
        self.appends = self._format.appends
        self._follow_ups = lru_cache(FOLLOW_UPS)(self._render_follow_up)  # many are of few messages
        ids = self._control.ids
        self.stop_ids = tuple(sorted({*stop_ids, ids[self._format.end]}))
        beyond = {i for i in ids.values() if rows is not None and i >= rows}
        never = self._never_sampled() - set(self.stop_ids)
        self.forbidden = tuple(sorted(never - beyond))
        barred = {*self.stop_ids, *never, *beyond}
        self._sampled = frozenset(token for token, i in ids.items() if i not in barred)
        self._unread = frozenset(barred)
        if self.appends:
            self._check_turns()

    @classmethod
    def load(cls, folder: str) -> Renderer:
        """Read tokenizer and stop tokens from a Hugging Face model folder.

        Raises:
            ValueError: no tokenizer, no chat template, or one that cannot be used.
        """
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        if not holds_tokenizer(Path(folder)):
            raise ValueError(
                f"{folder} holds no tokenizer; it needs one of {', '.join(VOCABULARIES)}"
            )
        processor = PictureProcessor.load(folder)
        if processor:
            tokenizer = processor.tokenizer
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, mistral_format=False
            )
        stop_ids = {tokenizer.eos_token_id} - {None}
        try:
            eos = GenerationConfig.from_pretrained(folder).eos_token_id
        except OSError:  # the file is optional
            eos = None
        for token in eos if isinstance(eos, list) else [eos]:
            if token is None:
                continue
            if type(token) is not int or not 0 <= token < len(tokenizer):
                raise ValueError(
                    f"generation_config.json: eos_token_id={token!r}: must be a token's number, "
                    f"from 0 to {len(tokenizer) - 1}"
                )
            stop_ids.add(token)
        rows = None
        if (Path(folder) / "config.json").is_file():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            rows = getattr(config.get_text_config(), "vocab_size", None)
        return cls(tokenizer, sorted(stop_ids), processor, rows)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that a model needs for what is rendered.

        Of a model of text alone without the control tokens that its template never writes: where
        a message spells one, it stays text (Gemma 3's for pictures has no row in its text models).
        """
        known = {*self.tokenizer.get_vocab().values()}
        if self.processor is None:
            source, named = self._template.source, self.tokenizer.special_tokens_map
            written = {token for name, token in named.items() if name in source}
            known -= {
                i
                for token, i in self._control.ids.items()
                if token not in source and token not in written and i not in self.stop_ids
            }
        return 1 + max(known)

    def prompt(
        self,
        message: str,
        pictures: Sequence[Picture] = (),
        turns: Sequence[tuple[str, str]] = (),
    ) -> Prompt:
        """A conversation up to where the next answer begins.

        Args:
            message: the last user message.
            pictures: of the first user message, which shows them before its text.
            turns: the messages before it, each with the text of its answer.

        Raises:
            ValueError: the model is one of text alone, its template gives a picture no token,
                or a picture is too large for its processor.
        """
        chat: list[ChatMessage] = []
        for text, answer in [*turns, (message, None)]:
            chat.append(self._message("user", text, 0 if chat else len(pictures)))
            if answer is not None:
                chat.append(self._message("assistant", answer))
        text = self._template.render(chat, answer_next=True)
        ids = self._control.encode(text)
        return Prompt(self._encode(text, pictures) if pictures else ids, ids)

    def follow_up(self, message: str, answer: Sequence[int]) -> list[int]:
        """Tokens from the end of a sampled answer to where the next answer begins.

        The template's end token is left out where the answer already ended: with that token, or
        with another stop token, unless the template's begins the next message as well.
        """
        last = answer[-1] if len(answer) else None
        ended = last == self._control.ids[self._format.end] or (
            last in self.stop_ids and not self._format.begins_next
        )
        return list(self._follow_ups(message, ended))

    def _render_follow_up(self, message: str, ended: bool) -> list[int]:
        said = self._message("user", QUESTIONS[0]), self._message("assistant", ANSWERS[0])
        text = self._template.render([*said, self._message("user", message)], answer_next=True)
        before, rest = ANSWERS[0], text.partition(ANSWERS[0])[2]
        end = self._format.end
        if ended:
            before, rest = end, rest[rest.index(end) + len(end) :]
        known = self._control.encode(end + before)  # so that it is read as it stands
        return self._control.encode(end + before + rest)[len(known) :]

    def answer(self, text: str) -> list[int]:
        """Tokens of a first answer, as a demonstration teaches it: with the one that ends it."""
        asked = Message(role="user", content=QUESTIONS[0], train=False)
        ids, mask = self.demonstration([asked, Message(role="assistant", content=text, train=True)])
        return [int(token) for token in ids[mask]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, without those that end an answer or are never sampled.

        Special tokens that a model answers with, such as those around its reasoning, are text.
        """
        ids = [token for token in token_ids if token not in self._unread]
        return str(self.tokenizer.decode(ids))

    def demonstration(
        self, messages: Sequence[Message], pictures: Sequence[Picture] = ()
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids int32 [T] and action mask bool [T] of a conversation to imitate.

        They are those of the whole conversation in the chat template, up to the end of the last
        answer to be trained on; an episode with the same answers has the same.

        Args:
            messages: of any roles that the template takes.
            pictures: of the first user message.

        Raises:
            ValueError: one sentence with the message that cannot be rendered or learned.
        """
        self._check_messages(messages)
        first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
        chat = [
            self._message(m["role"], m["content"], len(pictures) if i == first else 0)
            for i, m in enumerate(messages)
        ]
        text = self._template.render(chat, answer_next=False)
        if self._format.begins_next:
            text += self._format.end
        ids: list[int] = []
        mask: list[bool] = []
        start, before = 0, ""
        for number in (i for i, message in enumerate(messages) if message["train"]):
            begin, end = self._answer_in(chat, number, text)
            shown = pictures if not before else ()
            prompt = self._encode(before + text[start:begin], shown)
            both = self._encode(before + text[start:end], shown)
            self._check_answer(number, prompt, both)
            known = 1 if before else 0
            ids += both[known:]
            mask += [False] * (len(prompt) - known) + [True] * (len(both) - len(prompt))
            start, before = end, self._format.end
        return np.asarray(ids, np.int32), np.asarray(mask, np.bool_)

    def _message(self, role: str, text: str, pictures: int = 0) -> ChatMessage:
        """A message in which a control token that its text spells is text, if it can be one."""
        keep = self._sampled if role == "assistant" else ()
        return self._template.message(role, self._control.quote(text, keep), pictures)

    def _encode(self, text: str, pictures: Sequence[Picture]) -> list[int]:
        """Tokens of a rendered text, each picture's placeholder replaced by its own tokens."""
        if not pictures:
            return self._control.encode(text)
        if self.processor is None:
            raise ValueError(
                f"{self.tokenizer.name_or_path} is a model of text alone; an environment that "
                "shows pictures needs a vision-language model"
            )
        shown = [self.processor.text(picture) for picture in pictures]
        return self._control.encode(self._control.replace(text, self.processor.placeholder, shown))

    def _never_sampled(self) -> set[int]:
        tokenizer, ids = self.tokenizer, self._control.ids
        named = ("pad", "bos", "unk", "cls", "sep", "mask")
        barred = {getattr(tokenizer, f"{name}_token_id") for name in named} - {None}
        spelled = self._format.around - self._format.inside
        if self.processor is not None:
            plain, shown = (
                self._control.spelled(self._template.render([message], answer_next=True))
                for message in (self._message("user", "", n) for n in (0, 1))
            )
            spelled |= {*shown} - {*plain} | {*map(str, vars(self.processor.processor).values())}
            barred.add(self.processor.feature_id)
        return barred | {ids[token] for token in spelled if token in ids}

    def _check_turns(self) -> None:
        """Refuse a tokenizer that joins what one turn ends with and the next begins with."""
        said = [
            self._message(role, text)
            for role, text in zip(
                ("user", "assistant", "user"), (QUESTIONS[0], ANSWERS[0], QUESTIONS[1]), strict=True
            )
        ]
        prompt = self._template.render(said[:1], answer_next=True)
        ids = self._control.encode(prompt)
        whole = self._control.encode(self._template.render(said, answer_next=True))
        if whole[: len(ids)] != ids:
            raise ValueError(
                f"{self._template.name} ends a prompt with {prompt[-8:]!r}, which the tokenizer "
                "joins with the first word of an answer, so no answer could begin as the template "
                "writes it"
            )
        answer = self.answer(ANSWERS[0])
        if ids + answer + self.follow_up(QUESTIONS[1], answer) != whole:
            raise ValueError(
                f"{self._template.name}: the tokenizer gives a conversation other tokens turn by "
                "turn than as a whole, so an episode could not have those of its template"
            )

    def _check_messages(self, messages: Sequence[Message]) -> None:
        check_messages(messages)
        for number, message in enumerate(messages):
            spelled = self._control.spelled(message["content"]) if message["train"] else []
            barred = next((token for token in spelled if token not in self._sampled), None)
            if barred:
                raise ValueError(
                    f"message {number}: its answer holds {barred}, which ends an answer or is "
                    "never sampled; the chat template writes what stands around an answer"
                )
        self._template.check_roles([message["role"] for message in messages])

    def _answer_in(self, chat: list[ChatMessage], number: int, text: str) -> tuple[int, int]:
        """Where an answer begins and, after its end token, ends in the whole conversation."""
        if number == 0:
            raise ValueError("message 0: an answer that is trained on needs a message before it")
        prompt = self._template.render(chat[:number], answer_next=True)
        answered = text
        if number < len(chat) - 1:
            answered = self._template.render(chat[: number + 1], answer_next=False)
            answered += self._format.end if self._format.begins_next else ""
        if not answered.startswith(prompt):
            opening = prompt[common_length(prompt, answered) :]
            raise ValueError(
                f"message {number}: {self._template.name} opens an answer with {opening!r}, and "
                "does not write this before an answer that is there, so none can be learned"
            )
        end = self._format.until_end(answered, len(prompt))
        if end < 0 or not text.startswith(answered[:end]):
            raise ValueError(
                f"message {number}: {self._template.name} writes an answer in another way once "
                "messages follow it, so only the last one can be trained on"
            )
        return len(prompt), end

    def _check_answer(self, number: int, prompt: list[int], both: list[int]) -> None:
        """Refuse an answer that could not be sampled after its prompt."""
        answer = both[len(prompt) :]
        if both[: len(prompt)] != prompt:
            raise ValueError(
                f"message {number}: the tokenizer joins the beginning of its answer with the end "
                "of the prompt, so the answer could not be sampled"
            )
        barred = self._unread & {*answer} - {*self.stop_ids} | {*self.stop_ids} & {*answer[:-1]}
        if barred:
            token = self.tokenizer.convert_ids_to_tokens(min(barred))
            raise ValueError(
                f"message {number}: {self._template.name} writes {token} into its answer, which "
                "ends an answer or is never sampled"
            )
