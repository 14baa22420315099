"""GeneralPoints: make a formula of the cards that reaches the target, with a verifier's feedback.

`rules` deals the hands, `solver` solves them, `verifier` and `released` grade answers, `prompts`
has the texts, `expert` the demonstrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
from numpy.typing import NDArray

from configs.load import build
from envs.base import Baseline, Demonstration, EnvironmentFailure, Observation, TextEnv
from envs.general_points import expert, prompts, questions, rules, solver
from envs.general_points.answers import Answer, read_brief, read_json, read_legacy
from envs.general_points.baselines import policies, training
from envs.general_points.cards import picture
from envs.general_points.formula import compact
from envs.general_points.released import grade_released, longest_prefix
from envs.general_points.settings import Settings, message_templates, resolve
from envs.general_points.verifier import Hand, Verdict, grade, recognised

MAX_DRAWS = 100_000


class GeneralPoints(TextEnv):
    """The 24 game as a Gymnasium environment; keywords are the fields of `Settings`.

    >>> env = GeneralPoints(prompt_style="brief")
    >>> observation, info = env.reset(seed=0)
    >>> env.step(env.expert())[1:4]
    (5.0, True, False)
    """

    Settings = Settings

    def __init__(self, **keywords: object) -> None:
        settings = self.settings = build(Settings, keywords, "GeneralPoints")
        self.resolved = resolve(settings)
        self.templates = message_templates(settings)
        self.vision = settings.modality == "vision"
        size = settings.image_size
        self.make_spaces((size, size, 3) if self.vision else None)
        self.hand: Hand
        self.done = True
        self.image: NDArray[np.uint8] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Observation, dict[str, object]]:
        """Deal a solvable hand; every draw comes from the seed.

        Options: `face_rule` and `wording` (index of prompts.WORDINGS) of this episode alone.
        Info holds `cards` (names), `numbers` (under the scored rule), `rule` (as stated) and
        `question`.
        """
        super().reset(seed=seed)
        s = self.settings
        options = options or {}
        given = cast("str | None", options.get("face_rule"))
        stated = given or rules.draw_rule(self.np_random, s.face_rule)
        ranks, suits = self._draw_hand(s.fake_rule or stated)
        self._deal(ranks, suits, s.fake_rule or stated)
        self.answers = self.legal = 0
        self.read: list[float] = []
        self.first_try = 0.0
        self.done = False
        message = self._prompt(stated, cast(int, options.get("wording", 0)))
        info: dict[str, object] = {
            "cards": self.hand.names,
            "numbers": self.hand.numbers,
            "rule": stated,
            "question": self.question,
        }
        return self._observe(message, restart=1), info

    def _prompt(self, rule: str, wording: int) -> str:
        s, names = self.settings, self.hand.names
        if "prompt" in self.templates:
            return prompts.prompt_from(self.templates["prompt"], names, rule, s.target)
        return prompts.prompt(s.prompt_style, names, rule, s.target, self.vision, s.cot, wording)

    def _draw_hand(self, rule: str) -> tuple[list[int], list[int]]:
        s = self.settings
        released_draw = s.require_face and self.resolved.released
        for _ in range(MAX_DRAWS):
            hand = (
                rules.draw_released(self.np_random, s.num_cards, s.max_rank, s.suits)
                if released_draw
                else rules.draw(
                    self.np_random, s.num_cards, s.max_rank, self.resolved.replacement, s.suits
                )
            )
            if hand is not None and self._admits(hand[0], rule):
                return hand
        raise EnvironmentFailure(f"GeneralPoints: {MAX_DRAWS} draws gave no solvable hand with {s}")

    def _admits(self, ranks: list[int], rule: str) -> bool:
        numbers = tuple(sorted(rules.value(rank, rule) for rank in ranks))
        return questions.admits(tuple(sorted(ranks)), numbers, self.settings) and solver.solvable(
            numbers, self.settings.target
        )

    def _deal(self, ranks: list[int], suits: list[int], rule: str) -> None:
        names = tuple(rules.rank_name(rank) for rank in ranks)
        numbers = tuple(rules.value(rank, rule) for rank in ranks)
        self.hand = Hand(names, numbers, tuple(sorted(numbers)), self.settings.target)
        self.question = questions.question(self.hand.key, self.settings.target)
        if self.vision:
            self.image = picture(tuple(ranks), tuple(suits), self.settings.image_size)

    def _observe(self, message: str, restart: int) -> Observation:
        observation: Observation = {"message": message, "restart": restart}
        if self.image is not None:
            observation["image"] = self.image
        return observation

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, object]]:
        """Grade one answer.

        Terminated: solved. Truncated: the budget of answers is exhausted. `paper_code` lets
        answer verify_iter + 1 come, does not read it, and gives the reward `exhausted`; otherwise
        the last graded answer's reward includes it.
        """
        if self.done:
            raise ValueError("GeneralPoints: no episode is running; call reset before step")
        budget, exhausted = self.settings.verify_iter, self.resolved.rewards["exhausted"]
        self.answers += 1
        if self.answers > budget:
            verdict = Verdict("exhausted", exhausted, "step_limit_reached", False, None)
            return self._result(verdict, "", exhausted, truncated=True)
        answer = self._read(action)
        verdict = self._grade(answer)
        self.legal += verdict.legal
        if verdict.recognised is not None:
            self.read.append(verdict.recognised)
        elif self._states_cards:
            self.read.append(0.0)
        solved = verdict.name == "solved"
        if solved and self.answers == 1:
            self.first_try = 1.0
        truncated = not solved and self.answers == budget and not self.resolved.released
        reward = verdict.reward + (exhausted if truncated else 0.0)
        return self._result(verdict, answer.formula or "", reward, truncated)

    @property
    def _states_cards(self) -> bool:
        return self.vision or self.settings.prompt_style == "full"

    def _read(self, action: str) -> Answer:
        s = self.settings
        if s.prompt_style == "brief":
            return read_brief(action, self.vision, s.cot)
        if self.resolved.legacy_parser:
            return read_legacy(action, s.num_cards)
        return read_json(action)

    def _grade(self, answer: Answer) -> Verdict:
        r = self.resolved
        options = {
            "vision": self.vision,
            "penalty_sum": r.penalty_sum,
            "partial_reward": r.partial_reward,
        }
        hand = self.hand
        if not r.released:
            return grade(answer, hand, **options, rewards=r.rewards)
        formula = "None" if answer.formula is None else answer.formula.partition("=")[0]
        released = grade_released(
            formula, answer.cards, hand.names, hand.numbers, hand.target, **options
        )
        name, reward, messages, legal = released
        share = recognised(answer.cards, hand)
        return Verdict(name, reward, ", ".join(messages), legal, share, name == "misread")

    def _result(
        self, verdict: Verdict, formula: str, reward: float, truncated: bool
    ) -> tuple[Observation, float, bool, bool, dict[str, object]]:
        terminated = verdict.name == "solved"
        message = self._feedback(verdict, formula)
        said = verdict.reason or ("correct" if terminated else "")
        info: dict[str, object] = {"verdict": verdict.name, "message": said}
        if terminated or truncated:
            self.done = True
            info["metrics"] = self._metrics(terminated)
        return self._observe(message, restart=0), reward, terminated, truncated, info

    def _feedback(self, verdict: Verdict, formula: str) -> str:
        name, reason, prefix = verdict.name, verdict.reason, self._hint(verdict, formula)
        message = name if name in ("solved", "exhausted") else "feedback"
        if message in self.templates:
            return self.templates[message].substitute(reason=reason, verdict=name, prefix=prefix)
        style, mode = self.settings.prompt_style, self.resolved.feedback
        return prompts.feedback(style, mode, name, reason, prefix, verdict.misread)

    def _hint(self, verdict: Verdict, formula: str) -> str:
        """The beginning of a solution that the next message names; empty for none.

        The released verifier names one only where a legal formula has a value that it calls
        wrong, not for illegal formulas and not where rounding alone makes it miss the target.
        """
        released = self.resolved.released
        by_rounding = released and verdict.reward == 0
        hinted = verdict.name == "wrong" or (verdict.name == "illegal" and not released)
        if self.resolved.feedback != "prefix_hint" or not hinted or by_rounding:
            return ""
        written = formula if released else compact(formula)
        return longest_prefix(written, self.hand.key, self.hand.target)

    def _metrics(self, solved: bool) -> dict[str, float]:
        """Figures of the episode.

        recognition: mean share of the cards stated right; recognition_all: share of the answers
        that state all of them right; neither where answers are not to state cards.
        """
        graded = min(self.answers, self.settings.verify_iter)
        metrics = {
            "success": float(solved),
            "first_try": self.first_try,
            "legal_formula": self.legal / graded,
        }
        if self.read:
            metrics["recognition"] = sum(self.read) / len(self.read)
            metrics["recognition_all"] = self.read.count(1.0) / len(self.read)
        return metrics

    @classmethod
    def overlap(cls, train: dict[str, object], evaluation: dict[str, object]) -> str:
        """Which questions of an evaluation its training can ask: none, some or all."""
        return questions.overlap(
            build(Settings, train, "GeneralPoints"), build(Settings, evaluation, "GeneralPoints")
        )

    def expert(self) -> str:
        """The simplest solution, in the format that the prompt asks for."""
        return expert.answer(self, expert.formula(self.hand))

    def demonstrations(self, n: int, seed: int) -> Iterator[Demonstration]:
        """Yield n conversations to imitate, on hands drawn with these settings."""
        return expert.demonstrations(type(self)(**asdict(self.settings)), n, seed)

    def baselines(self, seed: int, trained: Sequence[Mapping[str, object]] = ()) -> list[Baseline]:
        """Policies without a model: at random, by heart, no answer."""
        given = [build(Settings, keywords, "GeneralPoints") for keywords in trained]
        learned = training(self.settings, given)
        return policies(self, lambda: (GeneralPoints(**asdict(s)) for s in learned), seed)

    def corpus(self) -> Iterator[str]:
        """Yield texts of this prompt style with every symbol of any rule, target or feedback."""
        return expert.corpus(self.settings, self.templates)
