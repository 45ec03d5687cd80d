"""The recipe reference: equal to what the config classes say, linked, and a schema that judges as they do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from flows.recipe import shipped
from flows.reference import DOCUMENTS, json_schema, main, markdown

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_reference_is_what_the_classes_say(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == DOCUMENTS[name](), "run: make docs"


def test_every_link_leads_to_a_heading() -> None:
    text = markdown()
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert len(links) > 10
    assert set(links) <= headings


def test_every_table_row_has_four_cells() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


@pytest.mark.parametrize("name", shipped())
def test_the_schema_accepts_every_shipped_recipe(name: str) -> None:
    tree = yaml.safe_load(shipped()[name].read_text("utf-8"))
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(tree)
    tree["train"]["lerning_rate"] = 1
    with pytest.raises(jsonschema.ValidationError, match="lerning_rate"):
        jsonschema.Draft202012Validator(json.loads(json_schema())).validate(tree)


def test_a_metric_may_be_written_as_its_kind() -> None:
    schema = jsonschema.Draft202012Validator(json.loads(json_schema()))
    tree = yaml.safe_load(shipped()["demo"].read_text("utf-8"))
    tree["evaluate"]["tasks"][0]["metrics"] = ["exact", {"kind": "regex", "pattern": "a"}]
    schema.validate(tree)
    tree["evaluate"]["tasks"][0]["metrics"] = ["exakt"]
    assert not schema.is_valid(tree)


class Left(BaseModel):
    """Goes left.

    And on.
    """

    method: Literal["left"] = "left"
    far: int = Field(default=3, ge=1, lt=1000, description="steps | paces")


class Right(BaseModel):
    """Goes right."""

    method: Literal["right"] = "right"
    name: str = Field(pattern="^a|b$", description="what it\nis called")


class Walk(BaseModel):
    """A walk."""

    go: Annotated[Left | Right, Field(discriminator="method")]
    then: tuple[Left, ...] = (Left(far=7),)
    rest: Left = Field(default_factory=Left)


def test_a_small_model_in_full() -> None:
    text = markdown(Walk).partition("## Top level\n")[2]
    assert (
        text
        == """
| key | type | default | meaning |
|---|---|---|---|
| `go` | [go, method left](#go-method-left) or [go, method right](#go-method-right) | required |  |
| `then` | list of [go, method left](#go-method-left) | `[{method: left, far: 7}]` | Goes left. |
| `rest` | [go, method left](#go-method-left) | its defaults | Goes left. |

## go, method left

Goes left.

And on.

| key | type | default | meaning |
|---|---|---|---|
| `method` | `left` | `left` | Says which of the variants this is. |
| `far` | whole number, ≥ 1, < 1,000 | `3` | steps \\| paces |

## go, method right

Goes right.

| key | type | default | meaning |
|---|---|---|---|
| `method` | `right` | `right` | Says which of the variants this is. |
| `name` | text, matching `^a\\|b$` | required | what it is called |
"""
    )


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out == markdown()
    main(["--json-schema"])
    assert capsys.readouterr().out == json_schema()
    main(["--write", str(tmp_path / "docs")])
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == sorted(DOCUMENTS)
