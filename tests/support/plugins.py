"""Environments as others write them: one that works, and one for each way to break a worker.

Each is `tests.support.plugins:test/Plugin-v0` with a `kind`; it ends after four right answers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from dataclasses import dataclass

import gymnasium
import numpy as np

from configs.schema import leaf
from envs.base import EnvironmentFailure, TextEnv

PLUGIN = "tests.support.plugins:test/Plugin-v0"
TURNS = 4
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
        if self.settings.kind == "parent":
            self.child = subprocess.Popen(["sleep", "600"])

    def reset(self, *, seed=None, options=None):
        self.began, self.steps = time.monotonic(), 0
        self.question = str(seed)
        if self.settings.kind == "stuck":
            time.sleep(600)
        if self.settings.kind == "number":
            return {"message": 5, "restart": 1}, {}
        return {"message": "5+5", "restart": 1}, {}

    def step(self, action):
        self.steps += 1
        observation, reward, over, metrics = {"message": "5+5", "restart": 0}, 1.0, False, {}
        if self.steps == 2:
            observation, reward = self.misbehave(observation)
        if self.settings.kind == "endless":
            observation["restart"] = 1
        elif self.steps == TURNS:
            over = True
            seconds = time.monotonic() - self.began
            metrics = {"success": 1.0, "first_try": 1.0, "seconds": seconds, "pid": os.getpid()}
        return observation, reward, over, False, {"message": "on", "metrics": metrics}

    def misbehave(self, observation):
        match self.settings.kind:
            case "slow":
                time.sleep(self.settings.seconds)
            case "busy":
                while True:
                    pass
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


gymnasium.register("test/Plugin-v0", Plugin)
