"""The comparison with one call for each parameter is of as many engines as a publish is."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks import sync


def test_every_engine_gets_every_parameter_in_a_call_of_its_own(monkeypatch):
    done = []

    def engine(index):
        def method(name):
            return SimpleNamespace(remote=lambda *asked: done.append((index, name, *asked[:1])))

        return SimpleNamespace(call=method("call"), load_parameter=method("load"))

    monkeypatch.setattr(sync.ray, "get", lambda refs: refs)
    monkeypatch.setattr(sync.ray, "put", lambda bucket: bucket.header.names[0])
    named = [(name, torch.zeros(2)) for name in ("a", "b")]
    sync.one_by_one(3, named, [engine(0), engine(1)])
    begin, end = "start_weight_update", "finish_weight_update"
    steps = [("call", begin), ("load", "a"), ("load", "b"), ("call", end)]
    assert done == [(index, *step) for step in steps for index in (0, 1)]
