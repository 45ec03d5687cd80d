"""Items of an evaluation that stand in the training data."""

from __future__ import annotations

from pathlib import Path

from flows.gates.contamination import search, words
from flows.gates.gate import CandidateFacts, GatePolicy, Waived, decide
from flows.gates.policy import Contamination
from tests.flows.evaluation_files import Results, Row, item, question
from tests.flows.gates.judging import evidence, rows_changed, rule


def test_items_seen_in_training_fail_unless_somebody_answers_for_them(tmp_path: Path) -> None:
    limits = Contamination()
    policy = GatePolicy(tasks=rule("keep", 0.5).tasks, contamination=limits)
    sound = evidence(tmp_path / "base", [1.0] * 100)
    chats = [["Some other text.", "an answer"], [question(7).upper().replace(":", " -"), "an answer"]]
    seen = search(sound, ["heldout"], chats, limits)
    assert [found.item for found in seen.items] == [item(7)]

    def verdict(facts: CandidateFacts, *waived: Waived) -> tuple[str, str]:
        decision = decide(policy, sound, {"baseline": sound}, facts, waived)
        return decision.verdict, decision.rules[-1].sentence

    assert verdict(CandidateFacts(seen=seen)) == (
        "fail",
        "contamination: 1 of 100 items stand in the training data (2 rows; word for word, or at least 50% of "
        f"their 8-word sequences); 0 are let through. {question(7)[:60]!r} (word for word).",
    )
    listed = decide(policy, sound, {"baseline": sound}, CandidateFacts(seen=seen)).rules[-1].listed
    assert listed == (f"heldout {item(7)[:12]}, word for word: {question(7)}",)
    waiver = Waived("contamination", "known duplicates of v1", "ada")
    passed, said = verdict(CandidateFacts(seen=seen), waiver)
    assert passed == "pass"
    assert said.endswith("Waived by ada: known duplicates of v1.")
    assert verdict(CandidateFacts(seen=search(sound, ["heldout"], chats[:1], limits)))[0] == "pass"
    assert verdict(CandidateFacts(seen=None), waiver)[0] == "invalid", (
        "nobody looked, and that cannot be waived"
    )
    mute = evidence(tmp_path / "mute", [1.0] * 100, rows_changed(lambda rows: rows[0].pop("asked")))
    decision = decide(policy, mute, {"baseline": sound}, CandidateFacts(seen=seen))
    assert decision.verdict == "invalid"
    assert "1 items were logged without their question" in decision.rules[-1].sentence
    nothing = evidence(tmp_path / "nothing", [1.0] * 100, late=rows_changed(lambda rows: rows.clear()))
    decision = decide(
        policy, nothing, {"baseline": sound}, CandidateFacts(seen=search(nothing, ["heldout"], chats, limits))
    )
    assert decision.rules[-1].verdict == "invalid", "nothing was looked for, so nothing was shown"
    assert "there are no items of heldout to look for" in decision.rules[-1].sentence


def test_overlap_is_counted_over_all_training_rows(tmp_path: Path) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"

    def ask(_: Results, rows: list[Row]) -> None:
        rows[0]["asked"] = text

    found = evidence(tmp_path / "e", [1.0], ask)
    limits = Contamination(words=8, share=0.8)
    halves = [["x " + " ".join(words(text)[:10])], [" ".join(words(text)[2:]) + " y"]]
    assert [i.share for i in search(found, ["heldout"], halves, limits).items] == [1.0]
    assert search(found, ["heldout"], halves[:1], limits).items == ()
    assert search(found, ["heldout"], [["one two three four five six seven"]], limits).items == ()
