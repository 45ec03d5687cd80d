"""What people read who are told by a Prefect block; tests/deploy/test_prefect_runs.py sends an e-mail."""

from __future__ import annotations

from flows.run.prefect_block import letter_of


def test_a_night_is_a_letter() -> None:
    refused = {"target": "b", "channel": "b/prod", "state": "refused", "why": "new: 3 points worse."}
    about = {
        "night": "2026-11-29",
        "counts": {"promoted": 1, "refused": 1},
        "cost": None,
        "promoted": ["a/prod"],
        "failed": [],
        "runs": [refused],
    }
    letter = letter_of({"id": "x", "event": "night", "at": "2026-11-30T11:00:05+00:00", "about": about})
    assert letter["subject"] == "Tuneline: night 2026-11-29"
    assert letter["text"].splitlines() == [
        "night, 2026-11-30 11:00:05 UTC",
        "",
        "night: 2026-11-29",
        "counts: promoted 1, refused 1",
        "cost: –",
        "promoted:",
        "  a/prod",
        "failed: –",
        "runs:",
        "  b, b/prod, refused, new: 3 points worse.",
    ]


def test_a_move_is_named_in_its_subject() -> None:
    about = {"channel": "support/prod", "generation": 3, "decision": "d1"}
    letter = letter_of({"id": "x", "event": "promotion", "at": "2026-11-30T11:00:05+00:00", "about": about})
    assert letter["subject"] == "Tuneline: promotion support/prod"
