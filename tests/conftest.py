"""Shared by all tests: one tiny model and one engine a session; no deadlines that noise breaks.

Hypothesis draws the same examples in every run, and bears a machine on which that takes long.
"""

import asyncio
import gc
import os
import signal
import threading

import pytest
from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
settings.register_profile(
    "cardinal",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("cardinal")

LONG = (  # files that take longest begin first, so that no process waits for the other's last one
    "end_to_end/test_train.py",
    "rollout/test_engine.py",
    "rollout/test_engine_vision.py",
    "learner/",
    "cluster/stream/test_buffer.py",
    "cluster/driver/test_resume.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.nodeid.removeprefix("tests/")
        return next((n for n, long in enumerate(LONG) if name.startswith(long)), len(LONG))

    items.sort(key=place)


BRIEF = {"prompt_style": "brief", "verify_iter": 3}
VISION = {"modality": "vision", "image_size": 128}


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Frees a learner in a tenth of the time: its collections pass over what lives on anyhow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny Llama with a tokenizer of GeneralPoints' text."""
    from configs.load import build
    from configs.schema import RunConfig
    from envs.registry import make
    from learner.init_model import init_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    init = {"layers": 2, "hidden": 128, "heads": 4, "mlp": 256}
    cfg = build(RunConfig, {"model": {"init": init}}, "")
    init_model(folder, cfg, make("cardinal/GeneralPoints-v0", BRIEF).corpus())
    return str(folder)


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory):
    """Folder of a tiny Idefics3 that sees 128 x 128 pictures as 16 tokens."""
    from configs.load import build
    from configs.schema import RunConfig
    from envs.registry import make
    from learner.init_model import init_model

    folder = tmp_path_factory.mktemp("vision") / "model"
    tower = {"layers": 1, "hidden": 64, "heads": 2, "mlp": 64}
    init = {"layers": 2, "hidden": 64, "heads": 2, "mlp": 128, "vision": tower}
    cfg = build(RunConfig, {"model": {"init": init}}, "")
    corpus = make("cardinal/GeneralPoints-v0", BRIEF | VISION).corpus()
    init_model(folder, cfg, corpus, vision=True)
    return str(folder)


class Loop:
    """An event loop in a thread, so that one engine serves many tests."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine, timeout=500):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


def start_engine(loop, folder, **others):
    """A real vLLM engine on a tiny model."""
    from rollout.engine import InferenceEngine
    from rollout.engine_settings import EngineSettings
    from rollout.renderer import Renderer

    renderer = Renderer.load(folder)
    settings = EngineSettings(
        folder,
        max_sequences=32,
        context_tokens=128,
        forbidden=renderer.forbidden,
        stop_ids=renderer.stop_ids,
        images=1 if renderer.processor else 0,
        kv_cache_gib=0.25,
        extension="tests.support.breakable_channel.Breakable",
        **others,
    )
    return loop.run(InferenceEngine.start(settings))


@pytest.fixture(scope="session")
def engine(tiny_model):
    """(loop, engine): a real vLLM engine on the tiny model, started once."""
    loop = Loop()
    started = start_engine(loop, tiny_model)
    yield loop, started
    loop.run(started.shutdown())
    loop.close()


@pytest.fixture(scope="session")
def vision_engine(vision_model):
    """(loop, engine): a real vLLM engine on the tiny model that sees, started once."""
    loop = Loop()
    started = start_engine(loop, vision_model)
    yield loop, started
    loop.run(started.shutdown())
    loop.close()
