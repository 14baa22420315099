"""`cardinal play`: a person plays an environment in the terminal, by keyboard or pipe.

Pictures are saved and shown as paths; the end of the input ends the game.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

from envs.base import EnvironmentFailure, Observation, TextEnv, offers

HELP = (
    "Answer in one line; an answer that begins with { or ``` goes on to a blank line, or to "
    "its last closing brace. ? shows the expert's answer. Ctrl-D ends."
)


class _EndOfInput(Exception):
    """There are no more answers."""


class Game:
    """A person's episodes, one seed after the other, and their rewards."""

    def __init__(self, env: TextEnv, seed: int, pictures: str | Path | None = None) -> None:
        self.env, self.seed = env, seed
        self.pictures = None if pictures is None else Path(pictures)
        self.console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
        self.played = self.solved = 0
        self.total = 0.0

    def run(self) -> None:
        """Play until the input ends.

        Raises:
            EnvironmentFailure: the environment broke; names the seed and the cause.
        """
        self._say(HELP, "dim")
        try:
            while True:
                self._episode()
                self.seed += 1
        except (_EndOfInput, KeyboardInterrupt):
            self._say(
                f"\n{self.played} episodes to their end, {self.solved} of them solved, "
                f"rewards {self.total:+g} in all. Goodbye."
            )
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"the episode of seed {self.seed} failed: {error}") from error

    def _episode(self) -> None:
        self._say(f"\n─── seed {self.seed} ───", "bold")
        observation, _ = self.env.reset(seed=self.seed)
        overview = self.env.overview()
        turn, total, ended = 1, 0.0, False
        self._show(observation, turn)
        while not ended:
            observation, reward, terminated, truncated, info = self.env.step(self._answer())
            reward, turn, ended = float(reward), turn + 1, terminated or truncated
            total, self.total = total + reward, self.total + reward
            style = "green" if reward > 0 else "red"
            self._say(f"{info['verdict']}: reward {reward:+g}, total {total:+g}", style)
            if info.get("message"):
                self._say(f"The verifier: {info['message']}")
            if not ended:
                self._show(observation, turn)
        self.played += 1
        self.solved += bool(info["metrics"]["success"])
        metrics = ", ".join(f"{name} {value:.3g}" for name, value in info["metrics"].items())
        self._say(f"{'terminated' if terminated else 'truncated'}: {metrics}", "bold")
        if overview is not None:
            self._save(Image.fromarray(overview), f"seed-{self.seed}-overview.png", "overview")

    def _show(self, observation: Observation, turn: int) -> None:
        """Print the user message; save its picture when it begins a prompt."""
        self._say(f"\n{observation['message']}")
        if "image" in observation and observation["restart"]:
            name = f"seed-{self.seed}-turn-{turn}.png"
            self._save(Image.fromarray(observation["image"]), name, "picture")

    def _answer(self) -> str:
        """The next answer; for each `?` before it the expert's answer is shown."""
        while (text := self._read()).strip() == "?":
            known = offers(self.env, "expert")
            self._say(f"The expert: {self.env.expert()}" if known else "It has no expert.", "cyan")
        return text

    def _read(self) -> str:
        """One line, or a paste up to a blank line or its last brace, after any blank lines."""
        line = ""
        while not line.strip():
            line = self._line("answer> ")
        if not line.lstrip().startswith(("{", "```")):
            return line
        text = line
        while not _complete(text):
            try:
                line = self._line("")
            except _EndOfInput:
                break
            if not line.strip():
                break
            text += "\n" + line
        return text

    def _line(self, prompt: str) -> str:
        try:
            line = input(prompt)
        except EOFError as error:
            raise _EndOfInput from error
        if not self.console.is_terminal:
            self._say(line)
        return line

    def _save(self, image: Image.Image, name: str, what: str) -> None:
        if self.pictures is None:
            self.pictures = Path(tempfile.mkdtemp(prefix="cardinal-play-"))
        self.pictures.mkdir(parents=True, exist_ok=True)
        image.save(self.pictures / name)
        self._say(f"[{what}: {self.pictures / name}]", "cyan")

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style)


def _complete(text: str) -> bool:
    """Whether an answer that began with a brace has closed all of them."""
    return text.lstrip().startswith("{") and text.count("{") == text.count("}")
