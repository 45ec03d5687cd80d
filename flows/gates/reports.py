"""A gate's decision for people, for CI servers (JUnit XML) and for step summaries (Markdown)."""

from __future__ import annotations

from xml.etree import ElementTree

from flows.formatting import VERDICTS, markdown_cell, plain
from flows.gates.gate import Decision
from flows.gates.rules import RuleResult


def lines(title: str, decision: Decision, recorded: str | None) -> list[str]:
    """The decision for a terminal."""
    text = [f"{plain(title)}: {VERDICTS[decision.verdict]}"]
    for rule in decision.rules:
        text.append(f"{_word(rule):>12}  {plain(rule.sentence)}")
        if rule.power is not None and rule.verdict == "insufficient":
            text.append(f"{'':>12}  chance to pass with these items: {rule.power:.0%}")
    text.append(f"recorded and signed as decision {recorded}" if recorded else "not recorded: no registry")
    return text


def junit(title: str, decision: Decision, recorded: str | None) -> str:
    """JUnit XML, a test case per rule: `fail` is a failure, `invalid` and `insufficient` are errors.

    The elements and attributes are those that Jenkins' junit plugin, GitLab and the GitHub actions read.
    """
    counted = [rule for rule in decision.rules if _counts(rule, decision)]
    broken = [rule for rule in counted if rule.verdict in {"invalid", "insufficient"}]
    failed = [rule for rule in counted if rule.verdict == "fail"]
    counts = {"tests": str(len(decision.rules)), "failures": str(len(failed)), "errors": str(len(broken))}
    counts |= {"skipped": "0", "time": "0"}
    suites = ElementTree.Element("testsuites", {"name": "tuneline gate", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": plain(title), **counts})
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"verdict": decision.verdict, "decision": recorded or "not recorded"}
    facts |= {f"evidence.{role}": digest for role, digest in decision.evidence.items()}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    for rule in decision.rules:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"gate.{rule.kind}", "name": plain(rule.rule), "time": "0"}
        )
        attributes = {"message": plain(rule.sentence), "type": rule.verdict}
        if rule in failed:
            ElementTree.SubElement(case, "failure", attributes).text = plain(rule.sentence)
        elif rule in broken:
            ElementTree.SubElement(case, "error", attributes).text = plain(rule.sentence)
        else:
            ElementTree.SubElement(case, "system-out").text = plain(rule.sentence)
    return _document(suites)


def markdown(title: str, decision: Decision, recorded: str | None) -> str:
    """A summary for the page of a CI run."""
    rows = [f"## {VERDICTS[decision.verdict]}", "", f"{markdown_cell(title)}", ""]
    rows += ["| | rule | difference | interval | items | differ |", "|---|---|---|---|---|---|"]
    for rule in decision.rules:
        cells = (_word(rule), rule.rule, *_figures(rule))
        rows.append("| " + " | ".join(markdown_cell(cell) for cell in cells) + " |")
    rows += ["", *(f"- {markdown_cell(rule.sentence)}" for rule in decision.rules), ""]
    rows.append(f"Decision `{recorded}`." if recorded else "Not recorded: the evidence is not in a registry.")
    return "\n".join(rows) + "\n"


def junit_error(title: str, words: str) -> str:
    """JUnit XML of a gate that came to no decision: one case, an error."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0"}
    suites = ElementTree.Element("testsuites", {"name": "tuneline gate", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": plain(title), **counts})
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", {"name": "verdict", "value": "none"})
    named = {"classname": "gate.input", "name": "the gate could be held", "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", named)
    attributes = {"message": plain(words), "type": "error"}
    ElementTree.SubElement(case, "error", attributes).text = plain(words)
    return _document(suites)


def markdown_error(title: str, words: str) -> str:
    """A summary of a gate that came to no decision."""
    return f"## No decision\n\n{markdown_cell(title)}\n\n- {markdown_cell(words)}\n\nNothing was recorded.\n"


def _document(suites: ElementTree.Element) -> str:
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, "unicode") + "\n"


def _figures(rule: RuleResult) -> tuple[str, str, str, str]:
    if rule.effect is None:
        return "–", "–", f"{rule.n:,}" if rule.n else "–", f"{rule.discordant:,}" if rule.n else "–"
    if rule.method in {"tango", "tango-clustered"}:
        effect, interval = (
            f"{100 * rule.effect:+.1f}",
            f"{100 * (rule.low or 0):+.1f} to {100 * (rule.high or 0):+.1f}",
        )
    else:
        effect = f"{rule.effect:,.0f}" if rule.rule == "size" else f"{rule.effect:.4g}"
        interval = "–" if rule.low is None or rule.high is None else f"{rule.low:.4g} to {rule.high:.4g}"
    differ = f"{rule.discordant:,}" if rule.kind == "task" else "–"
    return effect, interval, f"{rule.n:,}" if rule.n else "–", differ


def _word(rule: RuleResult) -> str:
    return "waived" if rule.waived else rule.verdict


def _counts(rule: RuleResult, decision: Decision) -> bool:
    """Whether a rule that does not pass stops the gate: not where another rule of its group passes."""
    group = {other.verdict for other in decision.rules if rule.group and other.group == rule.group}
    return rule.waived is None and ("pass" not in group or "invalid" in group)
