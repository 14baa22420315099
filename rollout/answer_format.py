"""How a chat template writes answers: where they begin and end, and what comes between them.

Read from the template's renderings of a conversation that no model ever had, before any engine
starts: a template that cannot be used is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from configs.text import one_line
from rollout.chat_template import ChatMessage, ChatTemplate, common_length
from rollout.control_tokens import ControlTokens

QUESTIONS = ("CARDINALQUESTION", "CARDINALSECOND", "CARDINALTHIRD")
ANSWERS = ("CARDINALANSWER", "CARDINALREPLY")
REASONING = "CARDINALREASON"


@dataclass(frozen=True)
class AnswerFormat:
    """What `answer_format` reads of a template.

    end: the control token that ends an answer.
    begins_next: the template writes `end` only before a next message, so a conversation that is
        over lacks it. GLM-4's `<|user|>` is such a token: it also begins the next message.
    appends: a longer conversation begins as the shorter one, its answer included. Where it does
        not (Qwen3 takes the reasoning out of earlier answers), every turn has its own prompt.
    inside: control tokens that the template writes into answers, around their reasoning too.
    around: control tokens that it writes between two answers.
    """

    end: str
    begins_next: bool
    appends: bool
    inside: frozenset[str]
    around: frozenset[str]

    def until_end(self, text: str, start: int) -> int:
        """Where, from `start` on, the first end token of a text is over; -1 without one."""
        found = text.find(self.end, start)
        return found if found < 0 else found + len(self.end)


def answer_format(template: ChatTemplate, control: ControlTokens) -> AnswerFormat:
    """Read a template.

    Raises:
        ValueError: answers could not be begun, ended or continued as the template does.
    """
    conversation = [
        template.message(role, text)
        for role, text in [
            ("user", QUESTIONS[0]),
            ("assistant", ANSWERS[0]),
            ("user", QUESTIONS[1]),
            ("assistant", ANSWERS[1]),
            ("user", QUESTIONS[2]),
        ]
    ]
    prompts = [template.render(conversation[:n], answer_next=True) for n in (1, 3, 5)]
    finished = [template.render(conversation[:n], answer_next=False) for n in (2, 4)]
    _check_order(template, prompts[-1])
    _check_opening(template, control, conversation, prompts[0], finished[0])
    end, begins_next = _end(template, control, prompts[1], finished[0])
    appends = _appends(template, conversation, prompts, finished, end)
    answer = _reasoned_answer(template, conversation, prompts[0], finished[0])
    if not appends:
        _check_history(template, conversation, answer.partition(end)[0])
    between = prompts[-1].partition(ANSWERS[0])[2].partition(ANSWERS[1])[0]
    inside = frozenset(control.spelled(answer)) - {end}
    return AnswerFormat(end, begins_next, appends, inside, frozenset(control.spelled(between)))


def _check_order(template: ChatTemplate, text: str) -> None:
    contents = [QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1], QUESTIONS[2]]
    parts = template.message("user", QUESTIONS[0])["content"]
    if isinstance(parts, list) and str(parts) in text:
        raise ValueError(
            f"{template.name} writes the list of a message's parts as it is; the template of a "
            "vision-language model must take content as text and image parts"
        )
    places = [text.find(content) for content in contents]
    once = all(text.count(content) == 1 for content in contents)
    if not once or places != sorted(places):
        raise ValueError(
            f"{template.name} does not repeat each message once and in order, so an answer has "
            "no place in its conversation"
        )


def _check_opening(
    template: ChatTemplate,
    control: ControlTokens,
    conversation: Sequence[ChatMessage],
    prompt: str,
    finished: str,
) -> None:
    """Refuse a template that begins an answer in a finished conversation only."""
    opening = finished.removeprefix(prompt).partition(ANSWERS[0])[0]
    ignored = prompt == template.render(conversation[:1], answer_next=False)
    if ignored and control.spelled(opening):
        raise ValueError(
            f"{template.name} has no add_generation_prompt, though it begins an answer with "
            f"{opening!r}; a prompt must end where the answer's own text begins"
        )


def _end(
    template: ChatTemplate, control: ControlTokens, next_prompt: str, finished: str
) -> tuple[str, bool]:
    """The token that ends an answer, and whether only a next message brings it."""
    after = finished.partition(ANSWERS[0])[2]
    tokens = control.spelled(after)
    if tokens:
        return tokens[0], False
    after = next_prompt.partition(ANSWERS[0])[2].partition(QUESTIONS[1])[0]
    tokens = control.spelled(after)
    if tokens and after.lstrip().startswith(tokens[0]):
        return tokens[0], True
    raise ValueError(
        f"{template.name} ends an answer with {after!r}, which begins with no control token of "
        "its tokenizer, so no answer could end"
    )


def _appends(
    template: ChatTemplate,
    conversation: Sequence[ChatMessage],
    prompts: Sequence[str],
    finished: Sequence[str],
    end: str,
) -> bool:
    """Whether every prompt is the prompt before it, its answer, and the next message's text."""
    for (before, after), over, answer in zip(pairwise(prompts), finished, ANSWERS, strict=True):
        until_answer, _, rest = over.partition(answer)
        answered = until_answer + answer + "".join(rest.partition(end)[:2])
        if not (answered.startswith(before) and after.startswith(answered)):
            return False
    shorter = template.render([*conversation[:2], conversation[4]], answer_next=True)
    return shorter.partition(ANSWERS[0])[2] == prompts[2].partition(ANSWERS[1])[2]


def _reasoned_answer(
    template: ChatTemplate, conversation: Sequence[ChatMessage], prompt: str, finished: str
) -> str:
    """The text of a finished conversation after its prompt, with reasoning where it has a form."""
    reasoning = {"reasoning_content": REASONING, "thinking": REASONING}
    try:
        text = template.render([conversation[0], conversation[1] | reasoning], answer_next=False)
    except ValueError:  # it has no reasoning, or in another form
        text = finished
    opening, rest = (t.partition(QUESTIONS[0])[2] for t in (prompt, text))
    return rest[common_length(opening, rest) :]


def _check_history(
    template: ChatTemplate, conversation: Sequence[ChatMessage], answer: str
) -> None:
    """Refuse a template that does not take as a message's content what it writes as an answer."""
    said = template.message("assistant", answer)
    try:
        text = template.render([conversation[0], said, conversation[2]], answer_next=True)
    except ValueError as error:
        raise ValueError(
            f"{template.name} writes earlier answers anew, but takes none as a message's text: "
            f"{one_line(error.__cause__ or error)}"
        ) from error
    if text.count(ANSWERS[0]) != 1:
        raise ValueError(f"{template.name} writes earlier answers anew, without their text")
