"""What every picture of a report is drawn with: a frame, a text, a line, a scale.

Colours are CSS classes (`series-0`, `axis`, …) that the page defines, so one picture serves light and dark.
Text width is estimated at 0.6 em per character, which is generous for sans-serif digits and letters.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from html import escape

from flows.formatting import plain

WIDTH = 400
FONT = 12.0
EM = 0.6 * FONT


def svg_text(text: str) -> str:
    """`text` fit for SVG: no control characters, markup escaped."""
    return escape(plain(text), quote=True)


def picture_frame(
    title: str,
    description: str,
    width: float,
    height: float,
    body: str,
    fixed: bool = False,
    links: bool = False,
) -> str:
    """An `svg` element with an accessible name and description around `body` (already escaped).

    It takes the width of its place, or with `fixed` its own, in CSS pixels; as attributes, which a page may
    have where its policy forbids styles within elements. `links`: there are some in the body, which a picture
    as such (`img`) would hide from who listens.
    """
    attributes = f' class="fixed" width="{width:g}" height="{height:g}"' if fixed else ""
    role = "group" if links else "img"
    number = zlib.crc32(f"{title}{description}{body}".encode())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="{role}"'
        f"{attributes} "
        f'aria-labelledby="svg{number}-t svg{number}-d"><title id="svg{number}-t">{svg_text(title)}</title>'
        f'<desc id="svg{number}-d">{svg_text(description)}</desc>{body}</svg>'
    )


def text_at(style: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text at this place; `style` is a class of the page."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{svg_text(text)}</text>'


def stroke(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line from one point to another; `style` is a class of the page."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def linear_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The function that maps low to start and high to end."""
    return lambda value: start + (end - start) * (value - low) / (high - low)
