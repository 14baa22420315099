"""Environments played in the test's own process: the same checks, no server; and deadlines."""

import json
from contextlib import asynccontextmanager

from envs import checked
from rollout.environment_process import HEADER, pack_step
from rollout.environments import EnvironmentProcess, unpack_step


def over_the_socket(step):
    """A checked step as it arrives from a process."""
    message = pack_step(step)
    text, data = HEADER.unpack(message[: HEADER.size])
    end = HEADER.size + text
    assert len(message) == end + data
    return unpack_step(json.loads(message[HEADER.size : end]), message[end:])


class Played:
    def __init__(self, env):
        self.env = env

    async def reset(self, seed):
        return over_the_socket(checked.reset(self.env, seed))

    async def step(self, answer):
        return over_the_socket(checked.step(self.env, answer))


class InProcess:
    """A source of one environment."""

    def __init__(self, env):
        self.env = env

    def name(self, variant):
        return self.env.spec.id

    @asynccontextmanager
    async def borrow(self, variant):
        yield Played(self.env)


def only_deadline(monkeypatch, call):
    """This call of an environment alone keeps its deadline: a slow machine ends no other one."""
    own = EnvironmentProcess._deadline

    def deadline(process, name):
        seconds, key = own(process, name)
        return seconds if name == call else 300.0, key

    monkeypatch.setattr(EnvironmentProcess, "_deadline", deadline)
