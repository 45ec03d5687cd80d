"""Pictures of the documents: one SVG each, readable on a light and on a dark page."""

from __future__ import annotations

from flows.report.svg import picture_frame

_STYLE = """<style>
svg { font-family: system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif; font-size: 12px;
  --page: #ffffff; --text: #1b1d22; --muted: #585f6b; --rule: #dcdde0; --good: #12693a; --bad: #a3201d;
  --even: #765200; --c0: #2f5fd0; --c1: #c2540a; --c2: #0b7a75; --c3: #8a3fb0; --c4: #6b6f00; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --text: #e9ebee; --muted: #a6adb9;
  --rule: #363b44; --good: #7fdca4; --bad: #ff9f98; --even: #f0cb72; --c0: #86a8ff; --c1: #ff9d5c;
  --c2: #56cfc8; --c3: #d59bf2; --c4: #d0d44f; } }
.page { fill: var(--page); } text { fill: var(--text); } .tick, .axis-label { fill: var(--muted); }
.head { font-size: 14px; font-weight: 600; } .label { font-weight: 600; }
.grid { stroke: var(--rule); } .axis { stroke: var(--muted); }
.zero { stroke: var(--muted); stroke-dasharray: 2 3; }
.line { fill: none; stroke: var(--series); stroke-width: 2; stroke-linejoin: round; }
.dot { fill: var(--series); stroke: var(--page); stroke-width: 1.5; }
.whisker { stroke: var(--series); stroke-width: 5; stroke-opacity: 0.45; stroke-linecap: round; }
.asked { stroke: var(--text); stroke-width: 1.5; } .asked-side { fill: var(--text); }
.series-0 { --series: var(--c0); } .series-1 { --series: var(--c1); } .series-2 { --series: var(--c2); }
.series-3 { --series: var(--c3); } .series-4 { --series: var(--c4); }
.verdict-pass { --series: var(--good); } .verdict-insufficient { --series: var(--even); }
.verdict-fail, .verdict-invalid { --series: var(--bad); }
</style>"""


def document(title: str, description: str, width: float, height: float, body: str) -> str:
    """A whole `svg` document with its colours around `body` (already escaped)."""
    page = f'{_STYLE}<rect class="page" width="100%" height="100%"/>{body}'
    return picture_frame(title, description, width, height, page) + "\n"


def placed(picture: str, x: float, y: float) -> str:
    """A picture of `flows.report` as a part of another one; what sticks out of it is seen."""
    width, height = picture.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()
    where = f'<svg x="{x:g}" y="{y:g}" width="{width}" height="{height}" overflow="visible" '
    return picture.replace("<svg ", where, 1)


def height_of(picture: str) -> float:
    """Of a picture of `flows.report`."""
    return float(picture.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1])
