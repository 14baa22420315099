"""Shared by all tests: one tiny model and one engine a session; no deadlines that noise breaks.

Hypothesis draws the same examples in every run, and bears a machine on which that takes long.
"""

import asyncio
import contextlib
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

TOGETHER = {  # files for one process, one after another: they share what takes seconds to start
    "a Ray": (
        "cluster/demonstrations/test_sft_data.py",
        "cluster/stream/test_buffer.py",
        "cluster/weights/test_object_store.py",
        "cluster/weights/test_device.py",
        "cluster/placement/test_results_in_the_object_store.py",
        "cluster/test_wait.py",
    ),
    "the process that ranks are forked off": (
        "learner/test_invariance.py",
        "learner/test_image_inputs.py",
        "learner/test_sequence_parallel.py",
        "learner/test_master_weights.py",
        "learner/test_distributed.py",
    ),
    "an imported vLLM": ("rollout/test_engine.py", "rollout/test_engine_vision.py"),
}
LONG = (  # what takes longest begins first, so that no process waits for the other's last one
    "end_to_end/test_train.py",
    *(file for files in TOGETHER.values() for file in files),
    "learner/",
    "cluster/driver/",
    "cluster/study/",
    "cluster/commands/",
    "examples/",
    "report/study/",
    "envs/",
    "rollout/",
)


def place(nodeid):
    """Of a test in the order: first the files that are named, as they are."""
    name = nodeid.removeprefix("tests/")
    return next((n for n, long in enumerate(LONG) if name.startswith(long)), len(LONG))


def unit(nodeid):
    """What one process runs: a file, or files that are together."""
    file = nodeid.split("::")[0]
    name = file.removeprefix("tests/")
    return next((what for what, files in TOGETHER.items() if name in files), file)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


RAY = contextlib.ExitStack()  # holds one from the first test that needs it to the last in a row


@pytest.fixture(scope="module")
def local_ray():
    """A small Ray, shared by files that stand next to each other."""
    import ray

    from tests.support.local_ray import local_ray

    if not ray.is_initialized():
        RAY.enter_context(local_ray())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem):
    if nextitem is None or "local_ray" not in nextitem.fixturenames:
        RAY.close()


BRIEF = {"prompt_style": "brief", "verify_iter": 3}
VISION = {"modality": "vision", "image_size": 128}


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Frees a learner in a tenth of the time: its collections pass over what lives on anyhow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_process_for_all_parts(monkeypatch):
    """Each part of a run names its process; here the next test's has no name yet."""
    monkeypatch.setattr("cluster.failures._this_process", "the driver")


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
