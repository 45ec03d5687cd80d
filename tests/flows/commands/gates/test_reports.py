"""What a gate leaves for CI: JUnit and Markdown, of a decision and of none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.flows.commands.conftest import Run
from tests.flows.commands.gates.junit import check_junit
from tests.flows.evaluation_files import BAD, GOOD, POLICY, evaluation, write


def test_reports_for_ci(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate, baseline = directories
    tasks = [POLICY["tasks"][0], {**POLICY["tasks"][2], "margin": 0.9}]
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    for ceiling, code, failures in ((1000, 0, 0), (10, 1, 1)):
        file = policy(tasks=tasks, max_bytes=ceiling)
        found = run("gate", file, "--candidate", candidate, "--baseline", baseline,
                    "--junit", str(xml), "--markdown", str(page))  # fmt: skip
        assert found[0] == code
        suite = ElementTree.parse(xml).getroot()
        check_junit(suite)
        assert suite.get("failures") == str(failures)
        text = page.read_text()
        assert ("## Gate passed" in text) == (code == 0)
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in tables} == {7}
        assert "| size | 100 | – | – | – |" in text
    (tmp_path / "candidate" / "samples_heldout.jsonl").write_text("")
    assert run("gate", file, "--candidate", candidate, "--baseline", baseline, "--junit", str(xml))[0] == 3
    suite = ElementTree.parse(xml).getroot()
    check_junit(suite)
    assert suite.get("errors") == "2"
    unwritable = ("--junit", str(tmp_path / "no" / "junit.xml"))
    code, said = run("gate", file, "--candidate", candidate, "--baseline", baseline, *unwritable)
    assert (code, "cannot be written" in said["error"]) == (3, True)


NO_DECISION: list[tuple[list[str], str]] = [
    (["{policy}", "--candidate", "{candidate}", "--baseline", "nowhere"], "expected two directories"),
    (
        ["absent.yaml", "--candidate", "{candidate}", "--baseline", "{baseline}"],
        "'absent.yaml' is neither a YAML file",
    ),
    (["{broken}", "--candidate", "{candidate}", "--baseline", "{baseline}"], "tasks.0.metrik: unknown key"),
    (["{policy}", "--candidate", "abcdef", "--baseline", "abcdef"], "there is no registry in"),
    (["{policy}", "--candidate", "{candidate}", "--baseline", "{baseline}"], "give its evaluation with"),
    (
        ["{policy}", "--candidate", "{candidate}", "--baseline", "{baseline}", "--latency", "absent.json"],
        "--latency absent.json: expected",
    ),
]


@pytest.mark.parametrize(("words", "said"), NO_DECISION)
def test_reports_are_written_where_no_decision_comes_about(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path, words: list[str],
    said: str,
) -> None:  # fmt: skip
    broken = policy("broken.yaml", tasks=[{**POLICY["tasks"][0], "metrik": 1}])
    known = {"policy": policy(), "broken": broken, "candidate": directories[0], "baseline": directories[1]}
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    xml.write_text("of the run before")
    given = [word.format(**known) for word in words]
    code, found = run("gate", *given, "--junit", str(xml), "--markdown", str(page))
    assert (code, said in found["error"]) == (3, True), found
    suite = ElementTree.parse(xml).getroot()
    check_junit(suite)
    (case,) = suite.iter("testcase")
    error = case.find("error")
    assert error is not None
    assert said in error.get("message", "")
    assert suite.get("errors") == "1"
    assert page.read_text().startswith("## No decision\n")
    page.unlink()
    unwritable = ("--junit", str(tmp_path / "no" / "junit.xml"), "--markdown", str(page))
    code, found = run("gate", *given, *unwritable)
    assert (code, "cannot be written" in found["error"], page.is_file()) == (3, True, True)


def test_of_a_group_only_what_decides_is_a_failure(
    policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    group = {"task": "heldout", "role": "improve", "against": "baseline", "any_of": "either"}
    file = policy(tasks=[{**group, "metric": metric} for metric in ("f", "g")])
    base = str(write(tmp_path / "base", evaluation({"f": BAD, "g": GOOD})))
    for name, scores, code, failures in (("one", GOOD, 0, "0"), ("none", [0.0] * 100, 1, "2")):
        candidate = str(write(tmp_path / name, evaluation({"f": scores, "g": [0.0] * 100})))
        xml = tmp_path / f"{name}.xml"
        found = run("gate", file, "--candidate", candidate, "--baseline", base, "--junit", str(xml))
        assert found[0] == code, found
        suite = ElementTree.parse(xml).getroot()
        check_junit(suite)
        assert suite.get("failures") == failures
