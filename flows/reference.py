"""The references of recipes and of serve.yaml, written from the config classes: Markdown for people, JSON
Schema for editors.

python -m flows.reference                 print the recipe's Markdown
python -m flows.reference --json-schema   print the recipe's JSON Schema
python -m flows.reference --write         write recipe.md, serve.md and their schemas into docs/
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.recipe import Recipe, shipped
from serving.gateway.config import ServeConfig

Schema = dict[str, Any]

_INTRODUCTION = """# Recipe reference

<!-- Written by `python -m flows.reference --write`. Do not edit: change the config classes. -->

A recipe is one YAML file for one run, with a section per stage. An unknown key is an error that names its
path and the nearest valid key. Relative paths are seen from the recipe's folder. A key can be changed for one
run with `--set`, where the entries of a list are counted from 0:

```console
$ tuneline run RECIPE --set train.epochs=2 --set quantize.0.type=Q8_0
```

Editors that know JSON Schema check a recipe while you type, if its first line names
[`recipe.schema.json`](recipe.schema.json), which this writes beside it:

```console
$ tuneline recipes schema > recipe.schema.json
```

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

The shipped recipe `{name}`, whole:

```yaml
{example}
```
"""
_SERVE = """# Reference of serve.yaml

<!-- Written by `python -m flows.reference --write`. Do not edit: change the config classes. -->

What `tuneline serve FILE` runs; [Serving many tenants](serving.md) explains it. An unknown key is an error
that names its path and the nearest valid key. `--set engines.0.replicas=2` changes a key for one start,
`--check` only validates. [`serve.schema.json`](serve.schema.json) is for editors.
"""
_PLAIN = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "none",
}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_TAGS = ("method", "kind")


def markdown(model: type[BaseModel] = Recipe, example: str = "pico-smoke") -> str:
    """The reference of recipes as Markdown."""
    text = shipped()[example].read_text(encoding="utf-8").strip()
    return _INTRODUCTION.format(name=example, example=text) + "\n" + sections(model)


def serve_markdown() -> str:
    """The reference of `serve.yaml` as Markdown."""
    return _SERVE + "\n" + sections(ServeConfig)


def sections(model: type[BaseModel]) -> str:
    """A section with a table of keys for each config class below `model`."""
    schema = model.model_json_schema()
    headings: dict[str, str] = {}
    for name, heading in _walk("", schema, schema["$defs"]):
        headings.setdefault(name, heading)
    parts = ["## Top level\n", _table(schema, schema, headings)]
    for name, heading in headings.items():
        section = schema["$defs"][name]
        level = "###" if "." in heading else "##"
        parts += [
            f"{level} {heading}\n",
            _paragraphs(section.get("description", "")),
            _table(section, schema, headings),
        ]
    return "\n".join(filter(None, parts)).rstrip() + "\n"


def json_schema(model: type[BaseModel] = Recipe) -> str:
    """The JSON Schema (draft 2020-12) of a recipe file, or of another kind, as text."""
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write all documents into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text(), encoding="utf-8")
    return [folder / name for name in DOCUMENTS]


DOCUMENTS: dict[str, Callable[[], str]] = {
    "recipe.md": markdown,
    "recipe.schema.json": json_schema,
    "serve.md": serve_markdown,
    "serve.schema.json": lambda: json_schema(ServeConfig),
}
"""File → what its text is."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.reference", description=__doc__.splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--json-schema", action="store_true", help="print the JSON Schema instead of Markdown"
    )
    chosen.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=Path("docs"),
        metavar="FOLDER",
        help="write all documents (docs)",
    )
    options = parser.parse_args(arguments)
    if options.write is not None:
        for path in write(options.write):
            print(path)
    else:
        print(json_schema() if options.json_schema else markdown(), end="")


def _walk(path: str, section: Schema, definitions: dict[str, Schema]) -> Iterator[tuple[str, str]]:
    """(class name, heading) of every config class below `section`, in the order of the keys."""
    for key, field in section["properties"].items():
        names = list(_references(field))
        here = f"{path}.{key}" if path else key
        for name in names:
            tag = _tag(definitions[name]) if len(names) > 1 else None
            yield name, f"{here}, {tag[0]} {tag[1]}" if tag else here
            yield from _walk(here, definitions[name], definitions)


def _references(field: Schema) -> Iterator[str]:
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2]
    for part in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _references(part)
    if "items" in field:
        yield from _references(field["items"])


def _tag(section: Schema) -> tuple[str, str] | None:
    """The key and value that tell this variant from the others."""
    for key in _TAGS:
        if "const" in section["properties"].get(key, {}):
            return key, section["properties"][key]["const"]
    return None


def _table(section: Schema, whole: Schema, headings: dict[str, str]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in section["properties"].items():
        default = "required" if key in section.get("required", ()) else _default(field, whole["$defs"])
        cells = (f"`{key}`", _type(field, headings), default, _meaning(field, whole["$defs"]))
        rows.append("| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _meaning(field: Schema, definitions: dict[str, Schema]) -> str:
    """The key's own description; a section without one has its class's first sentence."""
    classes = [definitions[name].get("description", "") for name in _references(field)]
    description: str = field.get(
        "description", "Says which of the variants this is." if "const" in field else ""
    )
    return description or (classes[0].splitlines()[0] if len(classes) == 1 and classes[0] else "")


def _type(field: Schema, headings: dict[str, str]) -> str:
    if "$ref" in field:
        heading = headings[field["$ref"].rpartition("/")[2]]
        return f"[{heading}](#{_anchor(heading)})"
    if alternatives := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(part, headings) for part in alternatives)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        least = f", at least {field['minItems']}" if "minItems" in field else ""
        return f"list of {_type(field['items'], headings)}{least}"
    bounds = [f"{sign} {field[key]:,}" for key, sign in _BOUNDS if key in field]
    if "pattern" in field:
        bounds.append(f"matching `{field['pattern']}`")
    return ", ".join([_PLAIN.get(field.get("type", ""), "anything"), *bounds])


def _default(field: Schema, definitions: dict[str, Schema]) -> str:
    if "default" not in field:
        return "its defaults"
    value = field["default"]
    if value is None:
        return "none"
    if value in ("", []):
        return "empty"
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list):
        variants = [definitions[name] for name in _references(field)]
        return f"`[{', '.join(_entry(item, variants) for item in value)}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _entry(item: Any, variants: Sequence[Schema]) -> str:
    """A list entry with its tag and whatever differs from that variant's defaults."""
    if not isinstance(item, dict):
        return json.dumps(item)
    for variant in variants:
        tag = _tag(variant)
        if tag and item.get(tag[0]) == tag[1]:
            defaults = {key: part.get("default") for key, part in variant["properties"].items()}
            item = {key: value for key, value in item.items() if key == tag[0] or value != defaults[key]}
    return "{" + ", ".join(f"{key}: {value}" for key, value in item.items()) + "}"


def _anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _paragraphs(docstring: str) -> str:
    return "\n".join(line.strip() for line in docstring.splitlines()) + "\n" if docstring else ""


if __name__ == "__main__":
    main()
