"""The rules for a demonstration's messages, whether an expert or a user's file wrote them."""

from __future__ import annotations

from collections.abc import Sequence

from envs.base import SURROGATE, Message


def check_messages(messages: Sequence[Message], key: str = "messages") -> None:
    """Refuse messages that cannot be rendered, or of which nothing would be trained on.

    Args:
        messages: of one demonstration.
        key: the field that holds them.

    Raises:
        ValueError: one sentence with the message and the rule.
    """
    if not messages:
        raise ValueError(f"{key}: is empty; it must be a list of at least one turn")
    for place, message in enumerate(messages):
        _check_message(message, f"{key}[{place}]")
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise ValueError(f"{key}: has no assistant turn, so there is nothing to train on")
    if not any(message["train"] for message in answers):
        raise ValueError(f"{key}: train is false for every assistant turn; nothing is trained on")


def _check_message(message: Message, where: str) -> None:
    role, content = message["role"], message["content"]
    if content is None:  # a null of Parquet
        raise ValueError(f"{where}: has no content; an empty text is one")
    if half := SURROGATE.search(content):
        raise ValueError(
            f"{where}: its text holds half a character, U+{ord(half[0]):04X}; no encoding has it"
        )
    if message["train"] and role != "assistant":
        raise ValueError(f"{where}.train=true: is the {role}'s turn; only assistants' are trained")
