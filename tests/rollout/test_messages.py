"""One set of rules for a demonstration's messages."""

import pytest

from rollout.messages import check_messages

USER = {"role": "user", "content": "1 2", "train": False}
ANSWER = {"role": "assistant", "content": "3", "train": True}
PREFIX = ANSWER | {"train": False}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [USER, PREFIX, USER, ANSWER],
        [{"role": "tool", "content": "", "train": False}, ANSWER],
    ],
)
def test_what_can_be_rendered_and_learned(messages):
    check_messages(messages)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "is empty; it must be a list of at least one turn"),
        ([USER], "has no assistant turn, so there is nothing to train on"),
        ([USER, PREFIX], "train is false for every assistant turn; nothing is trained on"),
    ],
)
def test_nothing_to_train_on(messages, sentence):
    for key in ("messages", "conversations"):
        with pytest.raises(ValueError, match=rf"^{key}: {sentence}$"):
            check_messages(messages, key)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"content": None}, ": has no content; an empty text is one"),
        ({"content": "a\ud83d"}, r": its text holds half a character, U\+D83D; no encoding has it"),
        ({"train": True}, ".train=true: is the user's turn; only assistants' are trained"),
    ],
)
def test_a_message_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=rf"^turns\[2\]{sentence}$"):
        check_messages([USER, ANSWER, USER | wrong], "turns")
