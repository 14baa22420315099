"""The parts that every page of this package is made of: head, style, sections, tables.

A page is one file that needs no network: no script, no link, pictures inside it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --faint: #6b6b6b; --line: #dcdcdc;
  --paper: #ffffff; --soft: #f5f5f3; --start: #777777; --sft: #0072b2; --ppo: #d55e00;
  --good: #00795a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --faint: #a0a0a0; --line: #3c3c3c;
  --paper: #171717; --soft: #222222; --start: #a8a8a8; --sft: #56b4e9; --ppo: #ff9045;
  --good: #4cc9a0; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; } .faint { color: var(--faint); }
.lead { font-size: 1.08rem; margin-top: .9rem; }
.status { font-size: .8rem; font-weight: 600; border: 1px solid; border-radius: 1rem;
  padding: .1rem .6rem; margin-left: .6rem; vertical-align: middle; }
.finished, .won { color: var(--good); } .failed, .interrupted, .lost { color: var(--bad); }
img { width: 100%; background: white; border-radius: 6px; padding: .6rem; box-sizing: border-box; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th, td { text-align: right; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; } thead th { color: var(--faint); border-bottom: 1.5px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } .columns { display: flex; flex-wrap: wrap; gap: 0 3.5rem; }
.start { color: var(--start); } .sft { color: var(--sft); } .ppo { color: var(--ppo); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { cursor: pointer; padding: .4rem .8rem; background: var(--soft); border-radius: 6px; }
details > div { padding: .5rem .8rem .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  font: 13px/1.45 ui-monospace, monospace; }
.message { border-left: 3px solid var(--line); padding: .25rem .8rem; margin: .5rem 0; }
.message.assistant { border-color: var(--sft); background: var(--soft); }
.message img { display: block; width: auto; max-width: 20rem; padding: .2rem; margin: .2rem 0; }
.role { font-size: .78rem; color: var(--faint); } .verdict { font-size: .88rem; margin-top: .2rem; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } details, table, img, h2 {
  break-inside: avoid; } h2 { break-after: avoid; } details::details-content {
  content-visibility: visible; block-size: auto; } summary { background: none; } }
"""


def document(
    title: str,
    suffix: str,
    status: tuple[str, str],
    facts: Iterable[str],
    body: str,
    style: str = "",
) -> str:
    """A whole page.

    Args:
        title: of the run or study; escaped here.
        suffix: what the page is, for the browser's tab.
        status: CSS class and word of the badge next to the title.
        facts: one line under the title; empty ones are left out.
        body: HTML, whose texts are escaped already.
        style: CSS on top of the common one.
    """
    badge, word = (escape(text) for text in status)
    line = escape(" · ".join(fact for fact in facts if fact))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: {escape(suffix)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}<span class="status {badge}">{word}</span></h1>
<p class="faint">{line}</p>
{body}
</body>
</html>
"""


def picture(file: Path, alt: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def section(title: str, body: str) -> str:
    """A titled part of a page; nothing where there is no body."""
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table that scrolls sideways; cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
