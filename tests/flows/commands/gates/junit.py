"""The form of the JUnit files that CI servers read."""

from __future__ import annotations

from xml.etree import ElementTree


def check_junit(root: ElementTree.Element) -> None:
    """The shape that CI servers read (Jenkins' junit-10.xsd): elements, their order, attributes, counts."""
    assert root.tag == "testsuites"
    children = {"testsuites": {"testsuite"}, "testsuite": {"properties", "testcase"},
                "properties": {"property"}, "testcase": {"failure", "error", "system-out"}}  # fmt: skip
    needed = {
        "testsuite": {"name", "tests", "failures", "errors"},
        "testcase": {"name", "classname"},
        "property": {"name", "value"},
        "failure": {"message", "type"},
        "error": {"message", "type"},
    }
    for element in root.iter():
        assert {child.tag for child in element} <= children.get(element.tag, set())
        assert needed.get(element.tag, set()) <= set(element.keys())
    for counter in (root, *root.iter("testsuite")):
        assert int(counter.get("tests", "")) == len(list(counter.iter("testcase")))
        assert int(counter.get("failures", "")) == len(list(counter.iter("failure")))
        assert int(counter.get("errors", "")) == len(list(counter.iter("error")))
    assert all(len(case) == 1 for case in root.iter("testcase"))
