"""The real engine: sampling, versions, seeds, and a weight update that leaves nothing out."""

import asyncio
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollout.adapters import Adapter, named_adapter, with_adapters
from rollout.bucket import buckets, pack
from rollout.engine import RequestRefused
from rollout.parent_watch import THREAD
from rollout.renderer import FORBIDDEN_BIAS
from tests.conftest import Loop, start_engine

KINDS = {
    "embedding": "embed_tokens",
    "attention": "self_attn",
    "mlp": "mlp",
    "norm": "norm",
    "head": "lm_head",
}
LIMIT = 1e-4


def prompts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [[int(t) for t in rng.integers(8, 30, rng.integers(5, 20))] for _ in range(n)]


def sample(engine, n=16, temperature=1.0, seed=0):
    loop, e = engine

    async def all_of_them():
        return await asyncio.gather(
            *(
                e.generate(p, max_tokens=16, temperature=temperature, seed=seed + i)
                for i, p in enumerate(prompts(n))
            )
        )

    return loop.run(all_of_them())


def difference(engine, model, completions):
    """Mean absolute difference of log-probabilities between the engine and transformers."""
    e = engine[1]
    gaps = []
    for c in completions:
        ids = torch.tensor([[*c.prompt_ids, *c.token_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(c.prompt_ids) - 1 : -1]
        logits[:, list(e.settings.forbidden)] += FORBIDDEN_BIAS
        picked = logits.log_softmax(-1).gather(1, torch.tensor(c.token_ids)[:, None])[:, 0]
        gaps.append((picked - torch.tensor(list(c.logprobs))).abs())
    return float(torch.cat(gaps).mean())


def send(engine, model, version, keep=lambda name: True, limit=1 << 16):
    loop, e = engine
    named = [(n, p) for n, p in model.state_dict().items() if keep(n)]
    loop.run(e.receive(version, [pack(group) for group in buckets(named, limit)]))


@pytest.fixture
def model(engine, tiny_model):
    """The learner's side; the engine has the same weights before and after each test."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    original = {n: p.clone() for n, p in model.state_dict().items()}
    send(engine, model, 0)
    yield model
    model.load_state_dict(original)
    send(engine, model, 0)


def perturb(model, part):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if part in name:
                p.add_(0.1 * torch.randn_like(p))


def test_completions_say_what_was_sampled(engine, model):
    completions = sample(engine, n=96)
    e = engine[1]
    for c, prompt in zip(completions, prompts(96), strict=True):
        assert list(c.prompt_ids) == prompt
        assert len(c.token_ids) == len(c.logprobs) == len(c.versions) <= 16
        assert c.stopped == (c.token_ids[-1] in e.settings.stop_ids)
        assert not set(c.token_ids) & set(e.settings.forbidden)
        assert set(c.versions) == {0}
    assert any(c.stopped for c in completions)
    assert not all(c.stopped for c in completions)
    assert difference(engine, model, completions) < LIMIT


def test_a_seed_makes_a_sample_its_own_and_greedy_needs_none(engine, model):
    first, again, other = sample(engine), sample(engine), sample(engine, seed=1000)
    assert [list(c.token_ids) for c in first] == [list(c.token_ids) for c in again]
    assert [list(c.token_ids) for c in first] != [list(c.token_ids) for c in other]
    greedy = [sample(engine, temperature=0.0, seed=s) for s in (0, 7)]
    assert [list(c.token_ids) for c in greedy[0]] == [list(c.token_ids) for c in greedy[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weight_arrives_and_none_may_be_left_out(engine, model, kind):
    part = KINDS[kind]
    sample(engine)  # fills the prefix cache with values of the old weights
    perturb(model, part)
    assert difference(engine, model, sample(engine)) > 10 * LIMIT, "the perturbation is visible"
    send(engine, model, 1, keep=lambda name: part not in name)
    assert difference(engine, model, sample(engine)) > 10 * LIMIT, f"{kind} was left out"
    send(engine, model, 2)
    completions = sample(engine)
    assert difference(engine, model, completions) < LIMIT
    assert {int(v) for c in completions for v in c.versions} == {2}


@pytest.mark.parametrize("limit", [1 << 14, 1 << 30], ids=["cut weights", "one bucket"])
@pytest.mark.parametrize("copied", [True, False])
def test_the_updates_after_the_first_bring_all_weights(engine, model, copied, limit):
    """By copies alone, and as the first where layers may not be copied."""
    loop, e = engine
    rpc = e._llm.collective_rpc
    loop.run(rpc("let_layers_be_copied", args=(copied,)))
    try:
        for version in (1, 2, 3):
            perturb(model, "")
            send(engine, model, version, limit=limit)
            assert difference(engine, model, sample(engine)) < LIMIT
        assert loop.run(rpc("has_plan")) == [copied]
    finally:
        loop.run(rpc("let_layers_be_copied", args=(True,)))


def test_adapters_alone_bring_the_weights_that_they_make(engine, model):
    """Merged beside the engine, with plain weights that were sent once."""
    loop, e = engine
    named = {n: p.clone() for n, p in model.state_dict().items()}
    plain = [pack(group) for group in buckets(named.items(), 1 << 16)]
    targets = [n for n in named if "self_attn" in n or "mlp" in n]
    for version in (1, 2):
        torch.manual_seed(version)
        adapters = {
            n: Adapter(torch.randn(4, named[n].shape[1]), torch.randn(len(named[n]), 4), 0.02)
            for n in targets
        }
        sent = [pack(named_adapter(n, adapter)) for n, adapter in adapters.items()]
        before = difference(engine, model, sample(engine))
        with torch.no_grad():
            for n, weight in model.named_parameters():
                weight.copy_(named[n] + adapters[n].delta() if n in adapters else named[n])
        assert difference(engine, model, sample(engine)) > max(10 * LIMIT, before)
        loop.run(e.receive(version, with_adapters([*plain, *sent])))
        assert difference(engine, model, sample(engine)) < LIMIT


def test_a_learner_of_another_dtype_is_heard(engine, model):
    rounded = {n: p.to(torch.bfloat16) for n, p in model.state_dict().items()}
    loop, e = engine
    for version in (1, 2):
        loop.run(e.receive(version, [pack(rounded.items())]))
    model.load_state_dict(rounded)
    assert difference(engine, model, sample(engine)) < LIMIT


@pytest.mark.slow  # an engine of its own
def test_without_the_refresh_a_tied_head_is_stale(tiny_model, tmp_path):
    """The output layer of a tied model is loaded with the embedding and keeps its packed copy."""
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    tied = AutoModelForCausalLM.from_config(config)
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    tied.save_pretrained(tmp_path)
    loop = Loop()
    second = (loop, start_engine(loop, str(tmp_path)))
    rpc = second[1]._llm.collective_rpc
    try:
        perturb(tied, "embed_tokens")
        loop.run(rpc("leave_out_refresh"))
        send(second, tied, 1, keep=lambda name: name != "lm_head.weight")
        assert difference(second, tied, sample(second)) > 10 * LIMIT
        loop.run(rpc("mend_refresh"))
        send(second, tied, 2, keep=lambda name: name != "lm_head.weight")
        assert difference(second, tied, sample(second)) < LIMIT
    finally:
        loop.run(second[1].shutdown())
        loop.close()


def test_its_processes_watch_who_started_them(engine):
    """VLLM's core does not: without, the engine of an actor that was killed stays for ever."""
    loop, e = engine
    (threads,) = loop.run(e._llm.collective_rpc("threads"))
    assert THREAD in threads


def test_sequences_in_flight_go_on_under_the_new_version(engine, model):
    """As soon as some have begun; tried again where all ended before the weights came."""
    loop, e = engine

    async def both(version):
        before = e.total_load()
        running = [
            asyncio.create_task(e.generate(p, max_tokens=100, temperature=1.0, seed=i))
            for i, p in enumerate(prompts(32))
        ]
        while not e.total_load().after(before).tokens:
            await asyncio.sleep(0.005)
        await e.receive(version, [pack(model.state_dict().items())])
        return await asyncio.gather(*running)

    for version in range(1, 11):
        sampled = [list(c.versions) for c in loop.run(both(version))]
        assert all(v == sorted(v) and set(v) <= {version - 1, version} for v in sampled)
        if any(set(v) == {version - 1, version} for v in sampled):
            break
    else:
        pytest.fail("no sequence went on")


def test_load_counts_sequences_that_run(engine, model):
    before = engine[1].total_load()
    sample(engine, n=48)
    load = engine[1].total_load().after(before)
    assert 1 < load.mean_running <= 32
    assert 0 < load.busy_s <= load.seconds


def test_a_refused_request_is_no_lost_engine(engine):
    """A prompt over the context: refused by name, and the next one is answered."""
    loop, started = engine
    with pytest.raises(RequestRefused, match=r"vLLM refused a request: .*128"):
        loop.run(started.generate([1] * 500, max_tokens=4, temperature=0.0))
    answered = loop.run(started.generate([1] * 5, max_tokens=4, temperature=0.0))
    assert len(answered.token_ids) > 0


def test_an_engine_may_begin_without_weights_and_has_all_after_an_update(tiny_model, tmp_path):
    """There are none in its folder."""
    folder, loop = tmp_path / "model", Loop()
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    engine = loop, start_engine(loop, str(folder), reads_weights=False)
    try:
        assert difference(engine, model, sample(engine)) > 10 * LIMIT
        for version in (1, 2):  # by vLLM's reload, and by copies
            send(engine, model, version)
            assert difference(engine, model, sample(engine)) < LIMIT
            perturb(model, "")
    finally:
        loop.run(engine[1].shutdown())
        loop.close()
