"""The texts that the player reads and writes: prompts, retries, answers.

Two styles: `full` states the task, the rules and the output format; `brief` is one short text
of at most 120 words and marks.
"""

from __future__ import annotations

import json
from string import Template

from envs.virl.directions import (
    history,
    observation,
    picture_line,
    short_expression,
    short_history,
)
from envs.virl.geometry import COMPASS, RELATIVE
from envs.virl.rail import Point
from envs.virl.verifier import Verdict

OPENINGS = (
    "You are an expert in navigation.",
    "You guide a traveller through a city.",
    "In this task you walk along a route in a city.",
)
"""First sentence of a full prompt; the first is used unless prompts are to be diverse."""

_TASK = {
    "language": """[Task Description]
{opening} You receive a list of instructions to follow, together with \
the history of your observations and actions. First find the instruction that is to be \
executed now. Then choose the action that the current observation and this instruction ask for.
""",
    "vision": """[Task Description]
{opening} You receive a list of instructions to follow, a picture of \
your surroundings, and the history of your observations and actions. First find the instruction \
that is to be executed now. Then choose the action that the picture and this instruction ask for.

[Observation format]
You observe a 2x2 grid of street views with the following headings:
{views}
Look for the landmarks of the instructions in these views.
""",
}
_VIEWS = {
    "cardinal": "[front, right\n back, left]",
    "legacy": "[left behind, left front\n right front, right behind]",
}
_ACTIONS = """[Action space]
"forward()": move forward one step
"turn_direction(x)": turn to direction x, where x is one of {words}
"stop()": the navigation is finished
"""
_OUTPUT = """[Output]
Answer with a JSON object of this form:
{
  "current observation": the latest observation,
  "current instruction": the sentence of the instructions that is to be executed now,
  "action": the action chosen from the action space
}"""
_BRIEF_WORDS = {"absolute": "compass", "relative": "turn"}


def numbered(sentences: list[str]) -> str:
    """The directions as a full prompt states them."""
    return "\n".join(f"{number}. {text}" for number, text in enumerate(sentences, start=1))


def full_prompt(
    route: str,
    past: list[tuple[str, str]],
    point: Point,
    vision: bool,
    action_space: str,
    view_layout: str,
    tidy: bool,
    wording: int = 0,
) -> str:
    """The long prompt; `past` holds (observation, action) pairs as text."""
    words = list(COMPASS if action_space == "absolute" else RELATIVE)
    now = picture_line(point) if vision else observation(point, tidy)
    task = _TASK["vision" if vision else "language"].replace("{views}", _VIEWS[view_layout])
    task = task.replace("{opening}", OPENINGS[wording])
    return "\n".join(
        [
            task,
            f"[Instruction]\n{route}\n",
            _ACTIONS.replace("{words}", str(words)),
            f"[Observations and actions sequence]\n{history(past, now)}\n",
            _OUTPUT,
        ]
    )


def brief_prompt(
    route: str, past: list[tuple[str, str]], point: Point, vision: bool, action_space: str
) -> str:
    """The short prompt: which words turns take, the directions, what was done, what is seen."""
    seen = "corner" if point.intersection else "street"
    if vision:
        seen += " and picture"
    elif point.expression:
        seen += f" {short_expression(point.expression)}"
    words = _BRIEF_WORDS[action_space]
    upcoming = sum(action != "forward()" for _, action in past) + 1
    return f"Use {words}. {route} Done: {short_history(past)}. Now: {seen}. Next {upcoming}:"


def prompt_from(
    template: Template,
    route: str,
    past: list[tuple[str, str]],
    point: Point,
    vision: bool,
    action_space: str,
    tidy: bool,
) -> str:
    """The prompt in the user's own words."""
    now = picture_line(point) if vision else observation(point, tidy)
    return template.substitute(
        directions=route,
        history=history(past, now),
        observation=now,
        turns=", ".join(COMPASS if action_space == "absolute" else RELATIVE),
    )


def retry(verdict: Verdict, feedback: str, style: str) -> str:
    """The next user message after a wrong answer."""
    if style == "brief":
        return {"none": "Again.", "binary": "Wrong. Again."}.get(
            feedback, f"Wrong: {verdict.message}. Again."
        )
    if feedback == "none":
        return "Please answer again in the same format."
    if feedback == "binary":
        return "You failed this trial. Please answer again in the same format."
    return (
        f"You failed this trial because {verdict.message}. "
        "Please avoid this and try again in the same format."
    )


def full_answer(observed: str, instruction: str, action: str) -> str:
    """An answer in the format that the long prompt asks for."""
    fields = {
        "current observation": observed,
        "current instruction": instruction,
        "action": action,
    }
    return json.dumps(fields, indent=2, ensure_ascii=False)


def brief_answer(point: Point, vision: bool, action: str) -> str:
    """The bare action, in vision after the landmark and its side."""
    return f"{short_expression(point.expression) or 'none'}; {action}" if vision else action
