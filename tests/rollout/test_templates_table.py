"""Templates of public models: what is rendered is the template's own rendering, or is refused.

The truth is `apply_chat_template` of the whole conversation. From what holds the table in
docs/compatibility.md is made.
"""

import asyncio
import shutil
from functools import cache

import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from configs.paths import ROOT
from envs.base import TextEnv
from rollout.chat_template import TODAY
from rollout.episode import EpisodeLimits, EpisodeRequest, run_episode
from rollout.pictures import Picture
from rollout.renderer import Renderer
from tests.support.engines import ScriptedEngine
from tests.support.environments import InProcess
from tests.support.marked_section import check_section
from tests.support.real_templates import BY_NAME, TEMPLATES

TURNS = (1, 2, 5)
QUESTIONS = ["Which numbers make 24?", "Try again:\n12 12", " hello there ", "one two", "three?"]
ANSWERS = ["8 * 3", "12 + 12 = 24", "Hi!", "forward()\nthen stop", "stop"]
LIMITS = EpisodeLimits(answer_tokens=256, context_tokens=4096, episode_deadline_s=300)
WITHOUT_END = {"falcon"}
WITHOUT_SYSTEM = {"gemma-2", "mistral-v0.1", "mistral-v0.3", "mistral-nemo"}
NOT_FROM_TEXT = {"gpt-oss"}
REWRITES = {"qwen3", "qwen3-thinking", "deepseek-r1"}
OPENS_A_THOUGHT = {"deepseek-r1"}
OPENED = {"qwen3-thinking"}  # its prompt opens a thought that its answers in data must hold
THOUGHT = "<think>\nbecause\n</think>\n\n"


@cache
def loaded(name):
    """The renderer of a template, or the sentence that refuses it."""
    template = BY_NAME[name]
    tokenizer = template.tokenizer()
    try:
        return Renderer(tokenizer, template.stop_ids(tokenizer))
    except ValueError as error:
        return str(error)


USABLE = [t.name for t in TEMPLATES if t.name not in WITHOUT_END | NOT_FROM_TEXT]


def conversation(turns, system=False, train="all", thought=""):
    messages = [("system", "Be brief.")] if system else []
    for pair in list(zip(QUESTIONS, ANSWERS, strict=True))[:turns]:
        messages += zip(("user", "assistant"), pair, strict=True)
    return [
        {
            "role": role,
            "content": thought + content if role == "assistant" else content,
            "train": role == "assistant" and (train == "all" or i == len(messages) - 1),
        }
        for i, (role, content) in enumerate(messages)
    ]


def truth(renderer, messages, answer_next=False):
    """Tokens of the template's own rendering."""
    encoded = renderer.tokenizer.apply_chat_template(
        [{"role": m["role"], "content": m["content"]} for m in messages],
        add_generation_prompt=answer_next,
        strftime_now=TODAY.strftime,
    )
    return list(encoded["input_ids"])


def runs(mask):
    """[begin, end) of each trained answer."""
    edges = [i for i in range(1, len(mask)) if mask[i] != mask[i - 1]] + [len(mask)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def sft(name, **options):
    """What becomes of a demonstration: "exact", or the sentence that refuses it.

    Anything else than the template's own tokens fails here.
    """
    thought = THOUGHT if name in OPENED else ""
    renderer, messages = loaded(name), conversation(**options, thought=thought)
    try:
        ids, mask = renderer.demonstration(messages)
    except ValueError as error:
        return str(error)
    ids = ids.tolist()
    whole = truth(renderer, messages)
    if name == "glm-4":  # the token that ends an answer comes with the next message
        whole = truth(renderer, [*messages, {"role": "user", "content": "x"}])
    assert ids == whole[: len(ids)]
    tokens = renderer.tokenizer
    answers = [i for i, message in enumerate(messages) if message["train"]]
    for number, (begin, end) in zip(answers, runs(mask), strict=True):
        assert ids[:begin] == truth(renderer, messages[:number], answer_next=True)
        assert ids[end - 1] in renderer.stop_ids
        assert not set(ids[begin : end - 1]) & {*renderer.stop_ids, *renderer.forbidden}
        text = tokens.decode(ids[begin : end - 1])
        content = messages[number]["content"].removeprefix("<think>\n" if thought else "")
        assert text.strip().endswith(content.strip())
    assert mask[-1]
    return "exact"


METRICS = {"success": 1.0, "first_try": 1.0}


class Talk(TextEnv):
    """Asks QUESTIONS, whatever is answered."""

    spec = EnvSpec("Talk-v0")

    def __init__(self, turns):
        self.turns, self.asked, self.answers, self.truncated = turns, 0, [], False
        self.image, self.restarts = None, ()
        self.make_spaces(None)

    def reset(self, *, seed=None, options=None):
        self.asked = 1
        return self.shown({"message": QUESTIONS[0], "restart": 1}), {}

    def shown(self, observation):
        return observation if self.image is None else observation | {"image": self.image}

    def step(self, action):
        self.answers.append(action)
        over = self.asked == self.turns
        restart = int(self.asked in self.restarts)
        observation = {"message": QUESTIONS[self.asked % 5], "restart": restart}
        self.asked += 1
        ends = (False, over) if self.truncated else (over, False)
        return self.shown(observation), 1.0, *ends, {"metrics": METRICS, "message": ""}

    def expert(self):
        return ""

    def demonstrations(self, n, seed):
        return iter(())

    def corpus(self):
        return iter(())


def sampled(renderer, turn):
    """Tokens of an answer to a turn, as the model gives it: with a thought where it has them."""
    if renderer.appends:
        return renderer.answer(ANSWERS[turn])
    opened = renderer.tokenizer.decode(renderer.prompt("x").token_ids).endswith("<think>\n")
    thought = THOUGHT.removeprefix("<think>\n" if opened else "")
    ids = renderer.tokenizer.encode(thought + ANSWERS[turn], add_special_tokens=False)
    return [*ids, renderer.tokenizer.eos_token_id]


def play(name, turns):
    renderer = loaded(name)
    env = Talk(turns)
    engine = ScriptedEngine([sampled(renderer, turn) for turn in range(turns)])
    request = EpisodeRequest("a", "v", 0, 0)
    trajectory = asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
    return renderer, env, engine, trajectory


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", USABLE)
def test_every_prompt_of_an_episode_is_the_templates_own(name, turns):
    renderer, env, engine, trajectory = play(name, turns)
    said = ANSWERS if renderer.appends else env.answers
    whole = [m for pair in zip(QUESTIONS, said, strict=False) for m in pair]
    roles = ("user", "assistant") * turns
    messages = [{"role": r, "content": c} for r, c in zip(roles, whole, strict=False)]
    for turn, prompt in enumerate(engine.prompts):
        assert prompt == truth(renderer, messages[: 2 * turn + 1], answer_next=True)
    assert len(trajectory.segments) == (1 if renderer.appends else turns)
    assert [turn.reward for turn in trajectory.turns] == [1.0] * turns


def test_a_turn_with_a_prompt_of_its_own_is_a_segment():
    """Also the turn that would have come next, where the episode is truncated."""
    for name, segments in (("qwen3", 3), ("qwen2", 1)):
        renderer, env = loaded(name), Talk(2)
        env.truncated = True
        engine = ScriptedEngine([sampled(renderer, turn) for turn in range(2)])
        request = EpisodeRequest("a", "v", 0, 0, bootstrap=True)
        played = asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
        said = ANSWERS if renderer.appends else env.answers
        pairs = [*zip(QUESTIONS, said, strict=False), (QUESTIONS[2], "")]
        messages = [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        assert played.bootstrap
        assert len(played.segments) == segments
        after = played.segments[-1].token_ids.tolist()
        assert after == truth(renderer, messages[:5], answer_next=True)
        assert [len(s.turns) for s in played.segments] == ([1, 1, 0] if segments == 3 else [2])


@pytest.mark.parametrize("name", ["qwen3", "qwen2"])
def test_a_restart_leaves_out_what_was_said_before_it(name):
    """Under a template that writes earlier answers anew, and under one that does not."""
    renderer, env = loaded(name), Talk(4)
    env.restarts = (2,)
    engine = ScriptedEngine([sampled(renderer, turn) for turn in range(4)])
    request = EpisodeRequest("a", "v", 0, 0)
    played = asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
    said = ANSWERS if renderer.appends else env.answers
    contents = (QUESTIONS[2], said[2], QUESTIONS[3])
    roles = ("user", "assistant", "user")
    since = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    assert engine.prompts[2] == truth(renderer, since[:1], answer_next=True)
    assert engine.prompts[3] == truth(renderer, since, answer_next=True)
    assert [len(s.turns) for s in played.segments] == ([2, 2] if renderer.appends else [1] * 4)


def test_an_answer_cut_by_its_cap_is_whole_in_the_prompts_after_it():
    renderer, env = loaded("qwen3"), Talk(2)
    engine = ScriptedEngine([sampled(renderer, 0)[:-1], sampled(renderer, 1)])
    request = EpisodeRequest("a", "v", 0, 0)
    asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
    assert env.answers[0].endswith(ANSWERS[0])
    contents = zip(
        ("user", "assistant", "user"), (QUESTIONS[0], env.answers[0], QUESTIONS[1]), strict=True
    )
    messages = [{"role": role, "content": content} for role, content in contents]
    assert engine.prompts[1] == truth(renderer, messages, answer_next=True)


def test_every_prompt_of_its_own_shows_the_picture(vision_model, tmp_path):
    folder = shutil.copytree(vision_model, tmp_path / "anew")
    file = folder / "chat_template.jinja"
    role = "{{ '<' + m['role'] + '>' }}"
    last = "{% if m['role'] == 'assistant' and loop.last %}!{% endif %}"
    assert role in file.read_text()
    file.write_text(file.read_text().replace(role, role + last))
    renderer, env = Renderer.load(str(folder)), Talk(3)
    assert not renderer.appends
    env.image = np.zeros((64, 64, 3), np.uint8)
    engine = ScriptedEngine([renderer.answer(answer) for answer in ANSWERS[:3]])
    engine.expand = renderer.processor
    request = EpisodeRequest("a", "v", 0, 0)
    played = asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
    features = renderer.processor.features(Picture.of(env.image))
    assert env.answers[0] == "!8 * 3"
    for segment in played.segments:
        assert len(segment.pictures) == 1
        assert (segment.token_ids == renderer.processor.token_id).sum() == features
    text = renderer.tokenizer.decode(played.segments[2].token_ids)
    assert text.startswith("<user><fake_token_around_image>")
    assert text.count("<fake_token_around_image>") == 2
    asked = [text.index(part) for part in ("Which", "!8 * 3", "Try", "!12 + 12", "hello", "!Hi!")]
    assert asked == sorted(asked)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", [name for name in USABLE if name not in REWRITES])
def test_an_episode_has_the_tokens_of_a_demonstration(name, turns):
    renderer, _, _, trajectory = play(name, turns)
    ids, mask = renderer.demonstration(conversation(turns))
    (segment,) = trajectory.segments
    assert segment.token_ids.tolist() == ids.tolist()
    assert segment.action_mask.tolist() == mask.tolist()


@pytest.mark.parametrize("name", sorted(WITHOUT_END | NOT_FROM_TEXT))
def test_what_cannot_be_used_is_refused(name):
    assert isinstance(loaded(name), str)
    assert ("so no answer could end" in loaded(name)) == (name in WITHOUT_END)


@pytest.mark.parametrize("name", USABLE)
def test_a_demonstration_is_the_templates_own_rendering_or_refused(name):
    for turns in TURNS:
        for system in (False, True):
            last = sft(name, turns=turns, system=system, train="last")
            every = sft(name, turns=turns, system=system)
            if system and name in WITHOUT_SYSTEM:
                assert "role" in last
                assert "role" in every
            elif name in OPENS_A_THOUGHT:
                assert "opens an answer with '<think>\\n'" in last
                assert "opens an answer with '<think>\\n'" in every
            else:
                assert last == "exact"
                assert (every == "exact") == (turns == 1 or name not in REWRITES)


def cell(outcomes):
    """Exact or refused, of outcomes that agree."""
    kinds = {"exact" if outcome == "exact" else "refused" for outcome in outcomes}
    (kind,) = kinds
    return kind


def row(template):
    """A template's row, and the sentences that refuse something of it."""
    renderer = loaded(template.name)
    if isinstance(renderer, str):
        return [template.name, "–", *["refused"] * 5], [renderer]
    many = [sft(template.name, turns=n) for n in TURNS[1:]]
    last = [sft(template.name, turns=n, train="last") for n in TURNS]
    system = [sft(template.name, turns=n, system=True, train="last") for n in TURNS]
    one = sft(template.name, turns=1)
    rollouts = "exact" if renderer.appends else "exact, each turn with its own prompt"
    end = renderer.tokenizer.convert_ids_to_tokens(sampled(renderer, 0)[-1])
    cells = [cell([one]), cell(many), cell(last), cell(system), rollouts]
    refusals = [o for o in (one, many[0], last[0], system[0]) if o != "exact"]
    name = template.name + (", answers with a thought" if template.name in OPENED else "")
    return [name, f"`{end}`".replace("|", r"\|"), *cells], refusals


def test_the_table_in_the_documentation():
    head = ["template", "ends an answer", "SFT, 1 turn", "2 and 5 turns", "only the last answer"]
    head += ["with a system turn", "episodes of 1, 2 and 5 turns"]
    lines = [head, ["---"] * len(head)]
    refusals = []
    for template in TEMPLATES:
        cells, sentences = row(template)
        lines.append(cells)
        refusals += dict.fromkeys(
            f"- {template.name}: {sentence[sentence.index('chat template') :]}"
            for sentence in sentences
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = (
        INTRODUCTION + "\n\n" + table + "\n\nThe sentences that refuse:\n\n" + "\n".join(refusals)
    )
    check_section(ROOT / "docs" / "compatibility.md", "templates", text)


INTRODUCTION = """\
A conversation is rendered by the model's own chat template. *Exact* means: token by token what
`apply_chat_template` gives for the whole conversation, up to the end of the last answer. What is
not exact is refused in one sentence, by `cardinal check` where a template, a prompt or one of the
first demonstrations shows it. The templates are those of public models without their branches for
tools, each on a small tokenizer with the model's control tokens
(`tests/support/chat_templates`); made by `tests/rollout/test_templates_table.py`.

- A template with a clock is rendered on 26 July 2024, whatever the day.
- A control token counts only where the template writes it: in the text of a message it is text.
- Never sampled are padding, the tokens that the template writes between answers but not into them,
  and the tokens of pictures.
- An answer ends with the tokenizer's `eos_token`, a token of `generation_config.json`, or the one
  that the template writes after an answer.
- Where a template writes earlier answers anew (without their reasoning), every turn of an episode
  is a segment with its own prompt, and a demonstration trains on its last answer only."""
