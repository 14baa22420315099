"""A gallery's page: recorded episodes as one HTML text that needs no network.

Pictures are data URIs; every text of an environment or an answer is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.viewer.episodes import (
    EpisodeRecord,
    GradedAnswer,
    PromptRecord,
    common_lines,
    new_lines,
    one_prompt_each,
)

SIDE = 720  # longest side of a picture, pixels
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --faint: #6b6b6b; --line: #dcdcdc;
  --paper: #ffffff; --soft: #f6f6f4; --good: #00795a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --faint: #a0a0a0; --line: #3c3c3c;
  --paper: #171717; --soft: #222222; --good: #4cc9a0; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 84rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .2rem;
  border-top: 1px solid var(--line); padding-top: 1.2rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); } .good { color: var(--good); }
.bad { color: var(--bad); }
.trials { display: grid; gap: 1.2rem; margin-top: .9rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.episode { display: grid; gap: 1.6rem; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr);
  align-items: start; }
.overview { position: sticky; top: 1rem; margin-top: .9rem; }
.overview pre { margin-top: .8rem; }
.trial { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.trial > * { margin: .6rem .8rem; } .trial > img { margin: 0; width: 100%; display: block; }
.overview img { width: 100%; border-radius: 8px; border: 1px solid var(--line);
  box-sizing: border-box; display: block; }
.number { font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  font: 12.5px/1.45 ui-monospace, monospace; }
.new { color: var(--faint); }
.answer { border-left: 3px solid var(--line); background: var(--soft); padding: .4rem .7rem; }
.answer.good { border-color: var(--good); } .answer.bad { border-color: var(--bad); }
.answer pre { color: var(--ink); }
.grade { display: flex; flex-wrap: wrap; white-space: nowrap;
  gap: .6rem; align-items: baseline; font-size: .88rem; }
.grade b { flex: 1; }
.said { color: var(--ink); font-size: .88rem; }
summary { cursor: pointer; color: var(--faint); font-size: .88rem; }
.prompt { background: var(--soft); border-radius: 8px; padding: .7rem 1rem; margin-top: 1rem; }
@media (max-width: 44rem) { .episode { display: block; } .overview { position: static; } }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } .trial, .overview {
  break-inside: avoid; } .overview { position: static; } h2 { break-after: avoid; } }
"""


def page(env_id: str, settings: str, episodes: Sequence[EpisodeRecord]) -> str:
    """The whole page."""
    known = common_lines(episodes)
    answers = [a for e in episodes for p in e.prompts for a in p.answers]
    slips = sum(answer.author != "expert" for answer in answers)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(env_id)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(env_id)}</h1><p class=faint>{escape(settings) or 'default settings'}</p>",
        f"<p>{_count(len(episodes), 'episode')}, {_count(len(answers), 'answer')}: the expert's, "
        f"and {_count(slips, 'slip')} among them so that other verdicts are seen.</p>",
        "<details class=prompt open><summary>the first prompt; below, of each only what is not in "
        f"all of them</summary><pre>{escape(episodes[0].prompts[0].text)}</pre></details>",
        *(_side_by_side if one_prompt_each(episodes) else _one_by_one)(episodes, known),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _side_by_side(episodes: Sequence[EpisodeRecord], known: set[str]) -> Iterator[str]:
    """Episodes of one prompt each, as cards of one grid."""
    yield "<div class=trials>"
    for episode in episodes:
        yield _prompt(f"seed {episode.seed}", episode.facts_line, episode.prompts[0], known)
    yield "</div>"


def _one_by_one(episodes: Sequence[EpisodeRecord], known: set[str]) -> Iterator[str]:
    """Episodes of several prompts, each under a heading, with its overview at the left."""
    for episode in episodes:
        metrics = (f"{name.replace('_', ' ')} {v:.3g}" for name, v in episode.metrics.items())
        total = f"<span class={_tone(episode.total)}>{episode.total:+g}</span>"
        yield f"<h2>Seed {episode.seed}: {total}, {episode.end}</h2>"
        yield f"<p class=faint>{escape(' · '.join([episode.facts_line, *metrics]))}</p>"
        yield from _prompts(episode, known)


def _prompts(episode: EpisodeRecord, known: set[str]) -> Iterator[str]:
    """The overview with the new lines of the first prompt, then all prompts in order."""
    first = episode.prompts[0].text
    if episode.overview is not None:
        new = "\n".join(new_lines(first, known))
        known = known | set(first.splitlines())
        yield f"<div class=episode><div class=overview>{_img(episode.overview, 'overview')}"
        yield f"<pre>{escape(new)}</pre></div>"
    yield "<div class=trials>"
    for number, prompt in enumerate(episode.prompts, start=1):
        yield _prompt(str(number), "", prompt, known)
        known = known | set(prompt.text.splitlines())
    yield "</div></div>" if episode.overview is not None else "</div>"


def _prompt(name: str, facts: str, prompt: PromptRecord, known: set[str]) -> str:
    new = "\n".join(new_lines(prompt.text, known))
    parts = ["<div class=trial>"]
    if prompt.image is not None:
        parts.append(_img(prompt.image, f"picture of {name}"))
    parts += [
        f"<div><span class=number>{name}</span> <span class=faint>{escape(facts)}</span>",
        f"<pre class=new>{escape(new)}</pre></div>",
        f"<details><summary>whole prompt</summary><pre>{escape(prompt.text)}</pre></details>",
        *(_answer(answer) for answer in prompt.answers),
        "</div>",
    ]
    return "\n".join(parts)


def _answer(answer: GradedAnswer) -> str:
    tone = _tone(answer.reward)
    parts = [
        f"<div class='answer {tone}'><pre>{escape(answer.text)}</pre>",
        f"<div class=grade><b class={tone}>{escape(answer.verdict)}</b>"
        f"<span class={tone}>{answer.reward:+g}</span>"
        f"<span class=faint>total {answer.total:+g}</span></div>",
        f"<div class=said><span class=faint>{escape(answer.author)} ·</span> "
        f"{escape(answer.message)}</div></div>",
    ]
    if answer.next_message:
        parts.append(f"<pre class=new>{escape(answer.next_message)}</pre>")
    return "".join(parts)


def _tone(reward: float) -> str:
    return "good" if reward > 0 else "bad" if reward < 0 else "faint"


def _img(pixels: NDArray[np.uint8], alt: str) -> str:
    return f"<img alt='{alt}' src='{data_uri(pixels)}'>"


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture, at most SIDE pixels a side, as PNG or JPEG data, whichever is smaller."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=88, subsampling=0)
    kind, sink = min(("png", png), ("jpeg", jpeg), key=lambda pair: len(pair[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"
