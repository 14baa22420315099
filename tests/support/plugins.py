"""Environments as others write them: one that works, and one for each way to break a worker.

Each is `tests.support.plugins:test/Plugin-v0` with a `kind`; it ends after four right answers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from dataclasses import dataclass

import gymnasium
import numpy as np

from configs.schema import leaf
from envs.base import Baseline, Demonstration, EnvironmentFailure, TextEnv

PLUGIN = "tests.support.plugins:test/Plugin-v0"
TEACHER = "tests.support.plugins:test/Teacher-v0"
TURNS = 4
EIGHT = ("slow", "hanging", "segfault", "nan", "huge", "picture", "leak", "endless")
MIXED = (*EIGHT, *["good"] * 8)  # what `kind=mixed` is, by its seed
LEAK = []


@dataclass(frozen=True)
class PluginSettings:
    kind: str = leaf("good", "what it does, most in their second step")
    seconds: float = leaf(0.3, "of a slow step")


class Plugin(TextEnv):
    Settings = PluginSettings

    def __init__(self, **keywords):
        self.settings = PluginSettings(**keywords)
        self.make_spaces(None)
        if self.settings.kind == "unmakeable":
            raise LookupError("no licence")
        if self.settings.kind == "heavy":
            self.held = bytearray(b"x") * 2**26
        if self.settings.kind == "parent":
            self.child = subprocess.Popen(["sleep", "600"])
        if self.settings.kind == "daemon":
            self.child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if self.settings.kind == "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=False).start()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.began, self.steps, self.kind = time.monotonic(), 0, self.settings.kind
        if self.kind == "mixed":
            self.kind = MIXED[seed % len(MIXED)]
        self.question = str(seed)
        if self.kind == "stuck":
            time.sleep(600)
        if self.kind == "number":
            return {"message": 5, "restart": 1}, {}
        return {"message": "5+5", "restart": 1}, {}

    def step(self, action):
        if self.kind == "picky" and action == "nonsense":
            time.sleep(600)
        self.steps += 1
        if self.kind == "fork" and self.steps == 1:
            os.fork()
        observation, reward, over, metrics = {"message": "5+5", "restart": 0}, 1.0, False, {}
        if self.steps == 2:
            observation, reward = self.misbehave(observation)
        if self.kind == "endless":
            observation["restart"] = 1
        elif self.steps == TURNS:
            over = True
            seconds = time.monotonic() - self.began
            process = float(os.getpid())
            metrics = {"success": 1.0, "first_try": 1.0, "seconds": seconds, "pid": process}
        return (
            observation,
            reward,
            over,
            False,
            {"verdict": "on", "message": "on", "metrics": metrics},
        )

    def misbehave(self, observation):
        match self.kind:
            case "slow":
                time.sleep(self.settings.seconds)
            case "hanging" | "busy":
                while self.kind == "busy":
                    pass
                time.sleep(600)
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(7)
            case "raising":
                raise EnvironmentFailure("the map is missing")
            case "leak":
                while True:
                    LEAK.append(bytearray(2**25))
            case "nan":
                return observation, float("nan")
            case "huge":
                return observation | {"message": "x" * 10_000_000}, 1.0
            case "picture":
                return observation | {"image": np.zeros((8, 8, 3))}, 1.0
        return observation, 1.0

    def close(self):
        if self.settings.kind == "unclosable":
            raise RuntimeError("the door is stuck")
        if self.settings.kind == "closing":
            time.sleep(600)


class Teacher(Plugin):
    """A plugin with all that is optional; `stuck_…` hangs there, `broken_…` raises there."""

    def expert(self):
        return "10"

    def demonstrations(self, n, seed):
        self._misbehave("demonstrations")
        for i in range(n + 1):  # one more than requested
            question = {"role": "user", "content": f"{seed + i}+0", "train": False}
            answer = {"role": "assistant", "content": str(seed + i), "train": True}
            picture = np.full((2, 3 + i, 3), i, np.uint8)
            yield Demonstration((question, answer), (picture,) * (i % 2), seed + i)

    def corpus(self):
        self._misbehave("corpus")
        yield from ("5+5", "10")

    def baselines(self, seed, trained=()):
        self._misbehave("baselines")
        return [Baseline("ten", "says ten", lambda observation: "10")]

    def _misbehave(self, what):
        if self.settings.kind == f"stuck_{what}":
            time.sleep(600)
        if self.settings.kind == f"broken_{what}":
            raise LookupError("torn")


gymnasium.register("test/Plugin-v0", Plugin)
gymnasium.register("test/Teacher-v0", Teacher)
