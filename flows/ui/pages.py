"""How a page is rendered: the templates, what they may call, and the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from flows.formatting import VERDICTS, duration, plain, short, size, template_environment
from flows.ui.static_files import address
from registry import Registry
from registry.api.middleware import problem

TEMPLATES = Path(__file__).parent / "templates"
_DIGEST = re.compile("[0-9a-f]{40,64}")
THEMES = ("auto", "light", "dark")

SCREENS = (
    ("Fleet", "/"),
    ("Runs", "/runs"),
    ("Artifacts", "/artifacts"),
    ("Channels", "/channels"),
    ("Gates", "/gates"),
    ("Tenants", "/tenants"),
    ("Engines", "/engines"),
    ("Schedules", "/schedules"),
    ("Store", "/store"),
    ("Health", "/health"),
)
FOR_ADMINS = (("Users", "/users"), ("Webhooks", "/webhooks"))


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """The page of this template; live parts ask for the same address again and take their part of it."""
    theme = request.cookies.get("theme", "auto")
    common = {
        "path": request.url.path,
        "query": dict(request.query_params),
        "screens": SCREENS + (FOR_ADMINS if request.app.state.may(request, "admin") else ()),
        "theme": theme if theme in THEMES else "auto",
        "user": request.scope.get("state", {}).get("user"),
        "csrf": request.app.state.csrf_token(request),
        "may": lambda role: request.app.state.may(request, role),
        "home": str(registry_of(request).home),
    }
    html = _environment().get_template(template).render(common | context)
    return HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})


def is_script(request: Request) -> bool:
    """Whether a program asks, with a token, and not a browser with a session."""
    return "authorization" in request.headers


def refusal(request: Request, status: int, title: str, message: str) -> Response:
    """Why there is no such answer: a page for people, a problem document (RFC 9457) for scripts."""
    if is_script(request):
        return problem(status, "http", message)
    return page(request, "error.html", status, title=title, message=message)


def part(template: str, **context: Any) -> Markup:
    """What this template renders that is the same for everybody who looks at it."""
    return Markup(_environment().get_template(template).render(context))


def registry_of(request: Request) -> Registry:
    """The registry that the application shows."""
    registry: Registry = request.app.state.registry
    return registry


def ago(at: datetime | str | None) -> Markup:
    """A `time` element: how long ago, with the exact time in UTC as its title; `–` for None."""
    if at is None:
        return Markup("–")
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    exact = at.astimezone(UTC)
    seconds = (datetime.now(UTC) - exact).total_seconds()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        exact.isoformat(timespec="seconds"), f"{exact:%Y-%m-%d %H:%M:%S} UTC", relative(seconds)
    )


def relative(seconds: float) -> str:
    """`just now`, `3 min ago`, `in 2 h`; as `tuneline.js` keeps it up to date."""
    distance = abs(seconds)
    if distance < 45:
        return "just now"
    unit, length = next((unit, length) for unit, length, limit in _UNITS if distance / length < limit)
    text = f"{max(1, round(distance / length))} {unit}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


_UNITS = (
    ("min", 60, 90),
    ("h", 3600, 36),
    ("d", 86_400, 60),
    ("months", 2_629_800, 24),
    ("years", 31_557_600, math.inf),
)


def number(value: float | None) -> str:
    """`12,345` for a count, four digits for another number, `–` for None."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def milliseconds(value: float | None) -> str:
    """`12 ms`, `1,204 ms`; `–` for None."""
    return "–" if value is None else f"{value:,.0f} ms"


def shown(value: Any) -> Markup:
    """A value of a configuration or of metrics: mappings as `key value; …`, digests short, yes or no."""
    if isinstance(value, Mapping):
        if not value:
            return Markup("–")
        # `Q4_K_M` is a type and `0.self_attn.q_proj` a module; `by_type` is two words
        named = [(k if k.isupper() or "." in k else k.replace("_", " "), v) for k, v in value.items()]
        parts = [Markup('<span class="muted">{}</span> {}').format(k, shown(v)) for k, v in named]
        return Markup("; ").join(parts)
    if isinstance(value, list | tuple):
        return Markup(", ").join(shown(item) for item in value)
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return Markup('<code title="{}">{}</code>').format(value, value[:12])
    return Markup.escape(plain(value) if isinstance(value, str) else number(value))


def interval(metric: Mapping[str, Any], share: bool = True) -> str:
    """`68.4 % (61.2–74.8), n = 228`, or `31.2 of 100 (29.4–33.1), n = 228`."""
    value, low, high, n = (metric[key] for key in ("value", "low", "high", "n"))
    unit = f" {metric['unit']}" if metric.get("unit") else ""
    if share and not unit and 0 <= low <= high <= 1:
        return f"{value:.1%} ({100 * low:.1f}–{100 * high:.1f}), n = {n:,}"
    return f"{value:.4g}{unit} ({low:.4g}–{high:.4g}), n = {n:,}"


def link_to(path: str, **parameters: Any) -> str:
    """The address with these parameters, without those that are None or empty."""
    query = {key: value for key, value in parameters.items() if value not in (None, "", ())}
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


@cache
def _environment() -> Environment:
    environment = template_environment(TEMPLATES, autoescape=True, auto_reload=False)
    environment.filters.update(
        ago=ago,
        duration=duration,
        size=size,
        short=short,
        number=number,
        interval=interval,
        shown=shown,
        ms=milliseconds,
    )
    environment.globals.update(static=address, link_to=link_to, VERDICTS=VERDICTS)
    return environment
