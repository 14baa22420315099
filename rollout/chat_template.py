"""A model's own chat template: from messages to text.

The text is that of `apply_chat_template`, on a day that never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from jinja2 import TemplateSyntaxError

from configs.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rollout.processor import PictureProcessor

# Templates that write today's date would give other tokens to a run that is resumed tomorrow. On
# this day falls the date that Llama 3's own template writes where it has no clock.
TODAY = datetime(2024, 7, 26)
ChatMessage = dict[str, object]


def _strftime(form: str) -> str:
    return TODAY.strftime(form)


class ChatTemplate:
    """The chat template of a tokenizer, or of a processor, whose messages are lists of parts."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, processor: PictureProcessor | None = None
    ) -> None:
        """Raises ValueError where there is no template."""
        # A processor has none where only tokenizer_config.json defines one.
        own = processor.processor.chat_template if processor else None
        templates = own or tokenizer.chat_template
        source = templates.get("default") if isinstance(templates, dict) else templates
        if not source:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path} has no chat template; "
                "a policy plays in messages, so its tokenizer_config.json must define one"
            )
        self.source = str(source)
        self.name = f"chat template of {tokenizer.name_or_path}"
        self._tokenizer, self._parts = tokenizer, processor is not None
        self._drops = lru_cache(self._find_dropped)

    def message(self, role: str, text: str, pictures: int = 0) -> ChatMessage:
        """A message as the template takes it: parts for a processor, plain text otherwise."""
        if not self._parts:
            return {"role": role, "content": text}
        parts: list[dict[str, str]] = [{"type": "image"}] * pictures
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    def render(self, messages: Sequence[ChatMessage], *, answer_next: bool) -> str:
        """The text of a conversation; with answer_next up to where the next answer begins.

        Raises:
            ValueError: the template refuses the conversation, with its own words.
        """
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(messages),  # type: ignore[arg-type] # its annotation has no parts
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=answer_next,
                strftime_now=_strftime,
            )
        except TemplateSyntaxError as error:
            raise ValueError(f"{self.name} cannot be read: {one_line(error)}") from error
        except Exception as error:  # the boundary to templates, which raise all kinds
            roles = [str(message["role"]) for message in messages]
            listed = ", ".join(roles[:3]) + (", …" if len(roles) > 3 else "")
            raise ValueError(
                f"{self.name} refuses messages of the roles {listed}: {one_line(error)}"
            ) from error
        return str(rendered)

    def check_roles(self, roles: Sequence[str]) -> None:
        """Refuse a sequence of roles of which the template leaves a message out.

        Raises:
            ValueError: names the message and its role.
        """
        dropped = self._drops(tuple(roles))
        if dropped is not None:
            raise ValueError(
                f"{self.name} leaves out message {dropped}, whose role is {roles[dropped]}; "
                "every message must be read"
            )

    def _find_dropped(self, roles: tuple[str, ...]) -> int | None:
        """The first message whose content is in no rendering of these roles."""
        contents = [f"CARDINAL{number}MESSAGE" for number in range(len(roles))]
        messages = [self.message(*pair) for pair in zip(roles, contents, strict=True)]
        text = self.render(messages, answer_next=False)
        return next((i for i, content in enumerate(contents) if content not in text), None)


def common_length(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
