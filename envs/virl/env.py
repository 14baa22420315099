"""The V-IRL environment: walk a route by its directions, one action an answer.

Input: Settings as keywords, then any text as action. Output: Gymnasium observations whose
messages are the next user messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.load import build
from envs.base import Baseline, Demonstration, EnvironmentFailure, Observation, TextEnv
from envs.virl import expert, prompts
from envs.virl.answers import read_brief, read_full, read_legacy
from envs.virl.baselines import STUDIED, Facts, Habit, policies, study
from envs.virl.directions import directions, observation, short_directions
from envs.virl.map import draw_map
from envs.virl.panorama import GAP, four_views
from envs.virl.rail import Point, lay_rail, relative_words
from envs.virl.route import Route
from envs.virl.settings import ACTION_SPACES, Settings, message_templates, resolve
from envs.virl.verifier import Verdict, grade
from envs.virl.world import open_world, route_overlap

OUT_OF_BUDGET = "you used up your trials at this position"


class VIRL(TextEnv):
    """Follow written directions through a city.

    A correct turn or forward leads to the next point of the rail and to a rebuilt prompt
    (`restart` = 1); after a wrong answer there is another try, `verify_iter` a point.
    `seed` picks route `seed mod routes` and the random choices on it; `options={"route": i}`
    picks another one. `terminated`: stopped at the destination; `truncated`: a point's trials
    or `max_steps` were used up.
    """

    Settings: ClassVar[type] = Settings

    def __init__(self, **settings: Any) -> None:
        self.settings = build(Settings, settings, "VIRL")
        self.rules = resolve(self.settings)
        self.templates = message_templates(self.settings)
        self.vision = self.settings.modality == "vision"
        self.world = open_world(self.settings)
        size = self.settings.image_size
        side = 2 * size + GAP
        self.make_spaces((side, side, 3) if self.vision else None)
        # What answers state besides the action.
        self.stated = "landmark" if self.vision else "nothing"
        if self.settings.prompt_style == "full":
            self.stated = "observation"
        self.turn_space = ""  # absolute or relative, of the running episode
        self.route: Route | None = None
        self.rail: list[Point] = []
        self._picture: NDArray[np.uint8]

    # --- Gymnasium ------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Options: `route`, its number; `wording`, index of prompts.OPENINGS.
        Info holds `route` (its name) and `position` (on the rail).
        """
        super().reset(seed=seed)
        options = options or {}
        self._wording: int = options.get("wording", 0)
        index = options.get("route")
        if index is None:
            index = int(self.np_random.integers(self.world.count)) if seed is None else seed
        self.route = self.world.route(index % self.world.count)
        heading = self._init_heading(self.route)
        self.rail = self._lay(self.route, heading)
        self.turns = relative_words(self.route, heading, self.rules)
        self.turn_space = self.settings.action_space
        if self.turn_space == "mixed":
            self.turn_space = ACTION_SPACES[int(self.np_random.integers(len(ACTION_SPACES)))]
        self.sentences = directions(self.route, self.turns, self.rules.tidy_rail)
        brief = self.settings.prompt_style == "brief"
        self._route_text = (
            short_directions(self.route, self.turns) if brief else prompts.numbered(self.sentences)
        )
        self.question = self._question(self.route)
        self.position, self._picture_at = 0, -1
        self.history: list[tuple[str, str]] = []
        self._begin_counts()
        return self._fresh(), {"route": self.route.name, "position": 0}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Grade one answer and, if its action is right, walk on."""
        if self.route is None or self.position >= len(self.rail):
            raise EnvironmentFailure("V-IRL step() was called before reset() or after the end")
        verdict = self._grade(str(action))
        self.left -= 1
        self.answers += 1
        reward, terminated, truncated = verdict.reward, False, False
        if verdict.right:
            self._walk_on()
            terminated = self.position == len(self.rail)
        elif verdict.name == "exhausted" or (self.left == 0 and not self.rules.extra_answer):
            truncated = True
            reward += 0.0 if verdict.name == "exhausted" else self.rules.rewards["exhausted"]
        limit = self.settings.max_steps
        if limit is not None and self.answers >= limit and not terminated:
            truncated = True
        message = verdict.message
        walked = verdict.right and not terminated
        shown = self._fresh() if walked else self._again(verdict)
        info: dict[str, Any] = {"verdict": verdict.name, "message": message}
        info |= {"route": self.route.name, "position": self.position}
        if terminated or truncated:
            info["metrics"] = self._metrics(terminated)
            self.position = len(self.rail)
        return shown, float(reward), terminated, truncated, info

    # --- what an episode shows ------------------------------------------------------------

    @property
    def point(self) -> Point:
        """Where the player stands."""
        return self.rail[self.position]

    def prompt(self, vision: bool) -> str:
        """The rebuilt prompt of the current point, for players who see pictures or read."""
        s, rules = self.settings, self.rules
        route, past, point = self._route_text, self.history, self.point
        if "prompt" in self.templates:
            return prompts.prompt_from(
                self.templates["prompt"],
                route,
                past,
                point,
                vision,
                self.turn_space,
                rules.tidy_rail,
            )
        if s.prompt_style == "brief":
            return prompts.brief_prompt(route, past, point, vision, self.turn_space)
        return prompts.full_prompt(
            route,
            past,
            point,
            vision,
            self.turn_space,
            rules.view_layout,
            rules.tidy_rail,
            self._wording,
        )

    def _fresh(self) -> Observation:
        return self._with_image({"message": self.prompt(self.vision), "restart": 1})

    def _again(self, verdict: Verdict) -> Observation:
        """The message after a wrong answer, or after the last one."""
        if verdict.right:
            text = verdict.message
        elif "feedback" in self.templates:
            template = self.templates["feedback"]
            text = template.substitute(reason=verdict.message, verdict=verdict.name)
        else:
            text = prompts.retry(verdict, self.settings.feedback, self.settings.prompt_style)
        return self._with_image({"message": text, "restart": 0})

    def _with_image(self, shown: Observation) -> Observation:
        """Add the picture of the current point, drawn once a point."""
        if not self.vision:
            return shown
        assert self.route is not None
        if self._picture_at != self.position and self.position < len(self.rail):
            size, point = self.settings.image_size, self.point
            panorama = self.world.panorama(self.route, point.place, size)
            self._picture = four_views(panorama, point.heading, size, self.rules.view_layout)
            self._picture_at = self.position
        shown["image"] = self._picture
        return shown

    # --- grading and walking --------------------------------------------------------------

    def _grade(self, text: str) -> Verdict:
        if self.left == 0:  # the released code's answer beyond the budget: not read
            return Verdict("exhausted", self.rules.rewards["exhausted"], OUT_OF_BUDGET)
        if self.settings.prompt_style == "brief":
            answer = read_brief(text, self.vision)
        elif self.rules.legacy_parser:
            answer = read_legacy(text)
        else:
            answer = read_full(text)
        verdict = grade(answer, self.point, self.stated, self.turn_space, self.rules)
        self.right += verdict.right
        if self.left == self.settings.verify_iter:  # the first answer here: nothing was said yet
            self.first_right &= verdict.right
            if verdict.recognised is not None:
                self.recognised.append(verdict.recognised)
        return verdict

    def _walk_on(self) -> None:
        action = self.point.action(self.turn_space)
        self.history.append((observation(self.point, self.rules.tidy_rail), action))
        self.position += 1
        self.left = self.settings.verify_iter

    def _begin_counts(self) -> None:
        self.left = self.settings.verify_iter  # graded answers left at this point
        self.answers = self.right = 0
        self.recognised: list[bool] = []  # a point reached
        self.first_right = True

    def _metrics(self, reached: bool) -> dict[str, float]:
        """Figures of the episode.

        recognition: share of the route's points at which the first answer stated exactly what is
        there, a landmark with its side or none; points never reached count as not recognised.
        recognition_all: 1 where it did at every point. Neither where answers state nothing.
        """
        metrics = {
            "success": float(reached),
            "first_try": float(reached and self.first_right),
            "per_step_accuracy": self.right / self.answers,
            "progress": self.position / len(self.rail),
        }
        if self.recognised:
            metrics["recognition"] = sum(self.recognised) / len(self.rail)
            metrics["recognition_all"] = float(sum(self.recognised) == len(self.rail))
        return metrics

    # --- routes ---------------------------------------------------------------------------

    def _question(self, route: Route) -> str:
        """Where the route leads, and what else decides its right actions."""
        area = route.name.rpartition("/")[0]
        wrapped = self.rules.wrap or self.turn_space == "absolute"
        return f"{area}/{route.way}, {self.turn_space}{'' if wrapped else ', not wrapped'}"

    def _init_heading(self, route: Route) -> int:
        chosen = self.settings.init_heading
        heading = route.init_heading if chosen is None else chosen
        return heading if heading != 0 else int(self.np_random.integers(360))

    def _lay(self, route: Route, heading: int) -> list[Point]:
        def nearest(place: tuple[float, float]) -> tuple[float, float] | None:
            return self.world.nearest(route, place)

        try:
            return lay_rail(route, heading, self.settings, self.rules, nearest, self.np_random)
        except LookupError as error:
            raise EnvironmentFailure(
                f"route {route.name}, key point {error.args[0]}: no panorama within "
                f"{self.settings.mapping_radius} m"
            ) from error

    @classmethod
    def overlap(cls, train: dict[str, object], evaluation: dict[str, object]) -> str:
        """How many of the evaluation's routes are routes of the training."""
        return route_overlap(build(Settings, train, "VIRL"), build(Settings, evaluation, "VIRL"))

    # --- baselines and experts ------------------------------------------------------------

    def facts(self) -> Facts:
        """What the current prompt says, without what is to be seen."""
        assert self.route is not None, "the facts of an episode begin with reset"
        legs, words = self.route.legs, self.turns
        if self.turn_space == "absolute":
            words = [leg.compass for leg in legs]
        return Facts(
            stated=self.stated,
            action_space=self.turn_space,
            turns=tuple(f"turn_direction({word})" for word in words),
            ends=tuple(leg.expression if leg.landmark else "" for leg in legs),
            history=tuple(action for _, action in self.history),
            intersection=self.point.intersection,
            refused=self.settings.verify_iter - self.left,
        )

    def baselines(self, seed: int, trained: Sequence[Mapping[str, object]] = ()) -> list[Baseline]:
        """Policies that do not see the landmark where they stand."""
        given = [build(Settings, keywords, "VIRL") for keywords in trained]
        return policies(self.facts, lambda: _study(given or [self.settings.training]), seed)

    def expert(self) -> str:
        """The rail's own action, with the true observation and the current instruction."""
        return expert.answer(self)

    def overview(self) -> NDArray[np.uint8]:
        """The map of the route: streets, rail, landmarks; uint8 [640, 640, 3]."""
        assert self.route is not None
        return np.asarray(draw_map(self.world, self.route, self.rail))

    def demonstrations(self, n: int, seed: int) -> Iterator[Demonstration]:
        """Yield n single-turn demonstrations: each navigation step of each route, in turn."""
        return expert.demonstrations(_player, self.settings, n, seed)

    def corpus(self) -> Iterator[str]:
        """Yield texts with every word of any variant of this environment."""
        return expert.corpus(_player, self.settings)


def _study(trained: list[Settings]) -> Habit:
    """What the routes of training with these settings teach of the last leg."""

    def rails() -> Iterator[list[Point]]:
        for settings in trained:
            student = _player(replace(settings, modality="language"))
            for seed in range(STUDIED):
                student.reset(seed=seed)
                yield student.rail

    return study(rails())


def _player(settings: Settings) -> VIRL:
    return VIRL(**vars(settings))
