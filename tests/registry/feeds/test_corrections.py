from __future__ import annotations

import pytest

from registry.errors import InvalidFeed
from registry.feeds.corrections import LONGEST_SHOWN, check, tag


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<b>now</b>", "<b>"),
        ("see </DIV >", "</DIV >"),
        ("<br/>", "<br/>"),
        ("<img src=x onerror='alert(1)'>", "<img src=x onerror='alert(1)'>"),
        ("<svg\nonload=alert(1)>", "<svg\nonload=alert(1)>"),
        ("a <!-- b -->", "<!--"),
        ("<!DOCTYPE html>", "<!DOCTYPE"),
        ("`one` <i>two</i> `three`", "<i>"),
        ("a `quote that does not end <b>", "<b>"),
        ("``a` <b>`` <u>", "<u>"),
    ],
)
def test_html_is_found(text: str, found: str) -> None:
    assert tag(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "1 < 2 and 3 > 2",
        "x<y and y>z",
        "List<String> of Map<K, V>",
        "#include <time.h>",
        "<answer>42</answer>",
        "write `<b>` for bold",
        "```html\n<p>`one`</p>\n```",
        "``a ` <b> ``",
        "< b>",
        "",
    ],
)
def test_plain_text_and_code_are_not_html(text: str) -> None:
    assert tag(text) is None


def test_long_texts_take_no_long_time() -> None:
    for text in ("<" * 65_536, "<a " * 21_000, "`" * 65_536, "".join("`" * n + " " for n in range(360))):
        assert tag(text) is None


def test_what_is_refused_is_named_shortly() -> None:
    with pytest.raises(InvalidFeed, match=r"HTML '<a href=x+…'"):
        check(f"<a href={'x' * 999}>", ["hello"], ())
    with pytest.raises(InvalidFeed, match="template"):
        check("<end>", ["hello"], ["<end>"])
    check("<b>", ["is it <i>?"], ())
    assert LONGEST_SHOWN < 100
