"""Every sentence that GeneralPoints shows or expects: prompts, feedback, answers.

`full` explains everything and asks for JSON; `brief` is one line. `TEMPLATES` are the messages
that a file of the user's can word otherwise.
"""

from __future__ import annotations

from string import Template

from envs.general_points.rules import face_values
from envs.templates import Fields

WORDINGS = (
    "You are an expert {target} points card game player. You are given {n} cards{where}.",
    "You play the {target} points card game. Here are {n} cards{where}.",
    "In this game, {n} cards{where} are to be turned into {target}.",
)
"""First sentence of a full prompt; the first is used unless prompts are to be diverse."""

_FULL = """[Task Description]
{opening}
Note that {rule}, and each card must be used exactly once.
Your goal is to output a formula that evaluates to {target} using the cards' numbers and the \
operators '+', '-', '*', '/', '(', ')' and '='.
{cards}
[Output]
Your response should be JSON in the following format:
{{
  "cards": [{letters}], where each is a card as you see it,
  "number": [{numbers}], where each is the number that the card counts,
{thought}  "formula": "an equation that equals {target}"
}}
"""
_THOUGHT = '  "thought": "the steps that lead to the formula",\n'

_RULE_FIELDS = ("target", "num_cards", "rule", "jack", "queen", "king")
TEMPLATES = {
    "prompt": Fields(("cards", "names", *_RULE_FIELDS)),
    "feedback": Fields(("reason", "verdict", "prefix")),
    "solved": Fields(()),
    "exhausted": Fields(()),
    "answer": Fields(("cards", "names", "numbers", "formula", "target", "thought"), ("formula",)),
}
"""Messages that can have a template, with its fields. cards: `'A', '5', '10', 'K'`; names:
`A 5 10 K`; rule: the sentence on J, Q, K; jack, queen, king: what each counts; reason and verdict:
the verifier's; prefix: the hint of feedback=prefix_hint, may be empty."""

BRIEF_WORDS = {
    "none": "again",
    "binary": "no",
    "solved": "solved",
    "partial": "unfinished",
    "exhausted": "over",
    "misread": "misread",
}
"""Brief messages; a failed answer under `verifier` gets its verdict's name."""


def rule_sentence(rule: str) -> str:
    """What the full prompt says of J, Q and K; rule as rules.face_values reads it."""
    jack, queen, king = face_values(rule)
    if jack == king:
        return f"'J', 'Q' and 'K' count as {jack}"
    return f"'J', 'Q' and 'K' count as {jack}, {queen} and {king}"


def brief_cards(names: tuple[str, ...], rule: str) -> str:
    """Cards and the rule in one line: each of J, Q, K with what it counts, `A 5 10 K=10`."""
    values = dict(zip("JQK", face_values(rule), strict=True))
    return " ".join(f"{name}={values[name]}" if name in values else name for name in names)


def prompt(
    style: str,
    names: tuple[str, ...],
    rule: str,
    target: int,
    vision: bool,
    cot: bool,
    wording: int,
) -> str:
    """The first message of an episode; rule is the one to state.

    Brief: `A 5 10 K=10`, in vision the rule alone, `J=10 Q=10 K=10`; a target other than 24 adds
    ` =30`. The rule is stated in the same way whatever it is.
    """
    if style == "brief":
        shown = brief_cards(tuple("JQK") if vision else names, rule)
        return shown + (f" ={target}" if target != 24 else "")
    letters = "abcdefghijklmnopqrstuvwxyz"
    n, where = len(names), " in the image" if vision else ""
    return _FULL.format(
        opening=WORDINGS[wording].format(target=target, n=n, where=where),
        rule=rule_sentence(rule),
        target=target,
        cards="" if vision else f"\n[Input]\nCards: [{_quoted(names)}]\n",
        letters=", ".join(letters[-n:]),
        numbers=", ".join(letters[:n]),
        thought=_THOUGHT if cot else "",
    )


def prompt_from(template: Template, names: tuple[str, ...], rule: str, target: int) -> str:
    """The first message of an episode in the user's words."""
    jack, queen, king = face_values(rule)
    return template.substitute(
        cards=_quoted(names),
        names=" ".join(names),
        target=target,
        num_cards=len(names),
        rule=rule_sentence(rule),
        jack=jack,
        queen=queen,
        king=king,
    )


def answer_from(
    template: Template,
    names: tuple[str, ...],
    numbers: tuple[int, ...],
    formula: str,
    target: int,
    thought: str | None,
) -> str:
    """An answer in the user's format."""
    return template.substitute(
        cards=_quoted(names),
        names=" ".join(names),
        numbers=", ".join(map(str, numbers)),
        formula=formula,
        target=target,
        thought=thought or "",
    )


def feedback(
    style: str, mode: str, name: str, reason: str, prefix: str = "", misread: bool = False
) -> str:
    """The next message after an answer, given its verdict's name and reason.

    Args:
        style: full | brief.
        mode: none | binary | verifier | prefix_hint.
        name: one of verifier.VERDICTS.
        reason: the verifier's words.
        prefix: what prefix_hint names, may be empty.
        misread: whether cards of a picture were misread, which the reason says already.
    """
    if style == "brief":
        if name in ("solved", "exhausted") or mode in ("none", "binary"):
            return BRIEF_WORDS[name if name in ("solved", "exhausted") else mode]
        words = [BRIEF_WORDS.get(name, name)]
        if misread and name != "misread":
            words.append(BRIEF_WORDS["misread"])
        if mode == "prefix_hint" and prefix:
            words.append(prefix)
        return " ".join(words)
    if name == "solved":
        return "Correct solution."
    if name == "exhausted":
        return "The number of trials is exhausted."
    if mode == "none":
        return "Try again."
    if mode == "binary":
        return "Your answer is not correct. Try again."
    if mode == "prefix_hint" and prefix and prefix not in reason:
        reason += f", and a solution begins with {prefix}"
    because = f" because {reason}" if reason else ""
    return f"You failed this trial{because}. Try again."


def answer(
    style: str,
    names: tuple[str, ...],
    numbers: tuple[int, ...],
    formula: str,
    target: int,
    vision: bool,
    thought: str | None,
) -> str:
    """An answer in the format that the prompt asks for."""
    if style == "brief":
        cards = f"{' '.join(names)}: " if vision else ""
        return cards + (f"{thought}; " if thought else "") + formula
    line = f'  "thought": "{thought}",\n' if thought else ""
    # The comma after the formula is the released data's own; its parser relies on it.
    return (
        f'{{\n  "cards": [{_quoted(names)}],\n  "number": [{", ".join(map(str, numbers))}],\n'
        f'{line}  "formula": "{formula}={target}",\n}}'
    )


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
