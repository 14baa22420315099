"""One row of demonstrations, as users have them, to messages and pictures; or one sentence.

Accepted are `messages` of role and content, whose content is text or a list of text and image
parts, and `conversations` of from and value; with pictures in `images` or `image`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cluster.demonstrations.files import Slice, rows
from cluster.demonstrations.picture_files import picture_bytes, picture_path, read_picture
from configs.load import ConfigError
from envs.base import Message
from rollout.messages import check_messages
from rollout.pictures import Picture
from rollout.renderer import Renderer

ROLES = ("system", "user", "assistant", "tool")
NAMES = {  # of conversations
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
PLACEHOLDER = "<image>"  # of conversations
NO_PICTURE = object()


class Conversation(NamedTuple):
    """What a row holds.

    messages: in order; at least one is the assistant's and is trained on.
    pictures: encoded, of the first user message, before its text.
    """

    messages: list[Message]
    pictures: list[bytes]


class RenderedRow(NamedTuple):
    """A row as SFT sees it: token ids [T], action mask [T], pictures."""

    token_ids: NDArray[np.int32]
    action_mask: NDArray[np.bool_]
    pictures: list[Picture]


@dataclass(frozen=True)
class LengthLimit:
    """How long a demonstration may be, in tokens.

    positions: what the model can read; None without a limit. A longer one is refused.
    most: sft.max_tokens; None without. A longer one is dropped.
    """

    positions: int | None = None
    most: int | None = None

    def keeps(self, tokens: int) -> bool:
        """Whether a demonstration of so many tokens is trained on.

        Raises:
            ValueError: it is neither dropped nor read by the model.
        """
        if self.most is not None and tokens > self.most:
            return False
        if self.positions is not None and tokens > self.positions:
            raise ValueError(
                f"has {tokens} tokens, and the model reads {self.positions}; "
                f"sft.max_tokens={self.positions} drops longer demonstrations and counts them"
            )
        return True


def rendered_rows(
    part: Slice, renderer: Renderer, limit: LengthLimit
) -> Iterator[RenderedRow | None]:
    """Each row of a slice, rendered; None where it is too long and dropped.

    Raises:
        ConfigError: one sentence with the file, the row and what is wrong.
    """
    for where, row in rows(part):
        try:
            rendered = render(row, Path(part.file).parent, renderer)
            kept = limit.keeps(len(rendered.token_ids))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        yield rendered if kept else None


def render(row: object, folder: Path, renderer: Renderer) -> RenderedRow:
    """Render a row.

    Args:
        row: of a file.
        folder: where paths of pictures begin.
        renderer: of the model.

    Raises:
        ValueError: one sentence: the row is no conversation, or the model cannot see it.
    """
    messages, encoded = conversation(row, folder)
    pictures = [Picture.of(read_picture(data)) for data in encoded]
    ids, mask = renderer.demonstration(messages, pictures)
    if not mask.any():
        raise ValueError("has no token to train on")
    return RenderedRow(ids, mask, pictures)


def conversation(row: object, folder: Path) -> Conversation:
    """Read a row.

    Raises:
        ValueError: one sentence with the field, the value and the rule.
    """
    messages, shown = _parse(row)
    return Conversation(messages, [picture_bytes(picture, folder) for picture in shown])


def named_pictures(row: object) -> list[str]:
    """The paths of a row's pictures, as it has them; none of a row that `conversation` refuses."""
    try:
        _, shown = _parse(row)
    except ValueError:  # whoever renders it names it
        return []
    return [path for path in map(picture_path, shown) if path]


def _parse(row: object) -> tuple[list[Message], list[object]]:
    """A row's messages, and its pictures as it has them."""
    if not isinstance(row, Mapping):
        raise ValueError(f"is {_name(row)}; it must be an object with messages")  # noqa: TRY004
    if row.get("tools"):
        raise ValueError("tools: is not rendered; leave it out, or write it into a message")
    present = [key for key in ("messages", "conversations") if row.get(key) is not None]
    if len(present) != 1:
        has = "both messages and conversations" if present else "neither messages nor conversations"
        raise ValueError(f"has {has}; it must have one of them")
    (key,) = present
    turns = row[key]
    if not isinstance(turns, list):
        raise ValueError(f"{key}: is {_name(turns)}; it must be a list of at least one turn")  # noqa: TRY004
    read = _message if key == "messages" else _turn
    parts = [read(turn, f"{key}[{place}]") for place, turn in enumerate(turns)]
    messages = [message for message, _ in parts]
    check_messages(messages, key)
    return messages, _pictures(row, parts, key)


Inline = list[object]  # a message's image parts: each a picture, or NO_PICTURE


def _message(turn: object, where: str) -> tuple[Message, Inline]:
    fields = _fields(turn, where, ("role", "content", "train"))
    role, train = fields.get("role"), fields.get("train")
    if role not in ROLES:
        raise ValueError(f"{where}.role={role!r}: must be one of {', '.join(ROLES)}")
    if train is not None and not isinstance(train, bool):
        raise ValueError(f"{where}.train={train!r}: must be true or false")
    text, inline = _content(fields.get("content"), f"{where}.content")
    trained = role == "assistant" if train is None else train
    return Message(role=str(role), content=text, train=trained), inline


def _turn(turn: object, where: str) -> tuple[Message, Inline]:
    """A turn of `conversations`; its pictures' placeholders begin its value."""
    fields = _fields(turn, where, ("from", "value"))
    role, text = NAMES.get(str(fields.get("from"))), fields.get("value")
    if role is None:
        raise ValueError(f"{where}.from={fields.get('from')!r}: must be one of {', '.join(NAMES)}")
    if not isinstance(text, str):
        raise ValueError(f"{where}.value: is {_name(text)}; it must be text")  # noqa: TRY004
    inline: Inline = []
    while text.startswith(PLACEHOLDER):
        text = text.removeprefix(PLACEHOLDER).lstrip()
        inline.append(NO_PICTURE)
    if PLACEHOLDER in text:
        raise ValueError(f"{where}.value: {PLACEHOLDER} must stand before the text")
    return Message(role=role, content=text, train=role == "assistant"), inline


def _fields(turn: object, where: str, known: Sequence[str]) -> Mapping[str, object]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{where}: is {_name(turn)}; it must have {' and '.join(known[:2])}")  # noqa: TRY004
    for name, value in turn.items():
        if name not in known and not _absent(value):
            raise ValueError(f"{where}.{name}: is not rendered; a turn has {', '.join(known)}")
    return turn


def _content(content: object, where: str) -> tuple[str, Inline]:
    """A message's text and its image parts, which come first."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ValueError(f"{where}: is {_name(content)}; it must be text or a list of parts")  # noqa: TRY004
    text, inline = list[str](), list[object]()
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text.append(part["text"])
        elif kind == "image" and not text:
            inline.append(_inline(part))
        elif kind == "image":
            raise ValueError(f"{where}[{place}]: a picture must stand before the text")
        else:
            raise ValueError(
                f"{where}[{place}]: must be of type text, with a text, or of type image"
            )
    return "".join(text), inline


def _inline(part: Mapping[str, object]) -> object:
    """The picture that an image part holds; NO_PICTURE where it stands for one of `images`."""
    given = {name: part[name] for name in ("image", "bytes", "path") if part.get(name) is not None}
    if not given:
        return NO_PICTURE
    return given.get("image", given)


def _pictures(
    row: Mapping[str, object], parts: Sequence[tuple[Message, Inline]], key: str
) -> list[object]:
    """The pictures of a row, as many as its image parts, where it has any."""
    first = next((p for p, (message, _) in enumerate(parts) if message["role"] == "user"), None)
    for place, (_, inline) in enumerate(parts):
        if inline and place != first:
            raise ValueError(f"{key}[{place}]: pictures must be in the first user turn")
    column = _column(row)
    if column and first is None:
        raise ValueError("images: there is no user turn to show them in")
    inline = parts[first][1] if first is not None else []
    if inline and len(column) != inline.count(NO_PICTURE):
        raise ValueError(
            f"{key}[{first}] has places for {inline.count(NO_PICTURE)} pictures, "
            f"images holds {len(column)}"
        )
    left = iter(column)
    return [next(left) if one is NO_PICTURE else one for one in inline] or column


def _column(row: Mapping[str, object]) -> list[object]:
    if row.get("images") is not None and row.get("image") is not None:
        raise ValueError("has both images and image; it must have one of them")
    if row.get("image") is not None:
        return [row["image"]]
    images = row.get("images")
    if images is not None and not isinstance(images, list):
        raise ValueError(f"images: is {_name(images)}; it must be a list")
    return cast("list[object]", images or [])


def _absent(value: object) -> bool:
    """Whether a field holds nothing, as where other rows of a file hold something."""
    return value is None or (isinstance(value, list | Mapping | str) and not value)


def _name(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    if _absent(value):
        return "empty"
    return f"of type {type(value).__name__}"
