"""The page of a report: one HTML file that needs no other, light or dark as the reader's system is."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..figures.style import DPI

_LARGE = 200_000  # bytes
# Style in the page, pictures as data URIs, no scripts: it opens from a disk, from mail, without a network.
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --soft: #59616c; --line: #d5d9df;
  --card: #f6f7f9; --link: #0b62c4; --warn: #fff4d6; --warnline: #d9a400; }
@media (prefers-color-scheme: dark) { :root { --paper: #16171a; --ink: #e2e4e8; --soft: #a0a6b0;
  --line: #3b3e45; --card: #1e2024; --link: #79b8ff; --warn: #332a10; --warnline: #b58900; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
.lead { color: var(--soft); margin-bottom: 1.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.2rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; }
.facts th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right; }
.wide { overflow-x: auto; }
.columns { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
nav { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 1.5rem 0;
  padding: .8rem 1.2rem; }
nav ol { columns: 19rem; column-gap: 2.5rem; margin: 0; padding-left: 1.4rem; }
nav li { break-inside: avoid; }
nav span { color: var(--soft); font-size: .85rem; }
.note { background: var(--warn); border-left: 4px solid var(--warnline); padding: .5rem 1rem;
  margin: 1rem 0; max-width: 46rem; }
.absent { color: var(--soft); font-style: italic; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; max-width: 46rem; }
code, pre { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
  overflow-x: auto; }
summary { cursor: pointer; }
footer { color: var(--soft); font-size: .85rem; margin-top: 4rem; border-top: 1px solid var(--line);
  padding-top: .8rem; }
@media print { nav { display: none; } h2, figure { break-inside: avoid; } }
"""


def escape(text: object) -> str:
    """Text as HTML shows it."""
    return html.escape(str(text))


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def absent(text: str) -> str:
    """A paragraph that says why something is not there."""
    return f'<p class="absent">{escape(text)}</p>'


def picture(light: bytes, dark: bytes, alt: str, caption: str) -> str:
    """A PNG in two versions of which the reader's system chooses, with its caption."""
    width = int.from_bytes(light[16:20], "big")  # of the IHDR chunk
    shown = round(width * 100 / DPI)  # sharp on screens with more than one dot a pixel
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_embedded(dark)}">'
        f'<img src="{_embedded(light)}" width="{shown}" alt="{escape(alt)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def moving_picture(gif: bytes, alt: str, caption: str) -> str:
    """A GIF with its caption."""
    return (
        f'<figure><img src="{_uri(gif, "image/gif")}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and what they are."""
    lines = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(what)}</td></tr>" for name, what in rows
    )
    return f'<div class="wide"><table class="facts">{lines}</table></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table with a head; all columns but the first are numbers, or text."""
    top = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = "numbers" if numbers else "words"
    return f'<div class="wide"><table class="{kind}"><tr>{top}</tr>{lines}</table></div>'


def columns(left: Sequence[str], right: Sequence[str]) -> str:
    """Two columns; one below the other where the page is narrow."""
    return f'<div class="columns"><div>{"".join(left)}</div><div>{"".join(right)}</div></div>'


def folded(title: str, text: str) -> str:
    """Preformatted text behind its title."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


@dataclass
class Section:
    """A part of the page: HTML pieces under a title; ``empty`` if it only says why it is."""

    anchor: str
    title: str
    pieces: list[str] = field(default_factory=list)
    empty: bool = False


def page(
    title: str, lead: str, top: str, notes: Sequence[str], sections: Sequence[Section], foot: str
) -> str:
    """The whole page: title, notes of what is missing, facts, contents, sections."""
    entries = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a>'
        f"{' <span>(not in this report)</span>' if section.empty else ''}</li>"
        for section in sections
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>',
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        top,
        f'<nav aria-label="Contents"><ol>{entries}</ol></nav>',
        *(
            f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>'
            + "".join(section.pieces)
            + "</section>"
            for section in sections
        ),
        f"<footer>{escape(foot)}</footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _embedded(png: bytes) -> str:
    """A PNG as it is, or where it is large as WebP, a fifth of it: photographs come in two versions here."""
    if len(png) <= _LARGE:
        return _uri(png, "image/png")
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    _, webp = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 92])
    return _uri(webp.tobytes(), "image/webp")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
