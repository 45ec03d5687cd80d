"""Times, sizes and foreign text for people."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.wording import duration, plain, short, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (98_200_000, "98.2 MB"),
        (999_999_999, "1.00 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int | None, words: str) -> None:
    assert size(count) == words


def test_short_ids() -> None:
    assert short("0123456789abcdef") == "0123456789ab"
    assert short(None) == "–"


@given(st.text(st.characters()))
def test_plain_text_can_stand_in_xml_and_drives_no_terminal(text: str) -> None:
    shown = plain(text)
    assert ET.fromstring(f"<t>{escape(shown)}</t>").text in (shown, None)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)


def test_plain_text_keeps_what_people_write() -> None:
    assert plain("naïve 日本語 👩‍💻\n\ttab") == "naïve 日本語 👩‍💻\n\ttab"
    assert plain("\x1b[2Jgone\u202etxt.exe") == "[2Jgonetxt.exe"
