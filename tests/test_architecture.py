"""The house rules, as tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.quantization import METHODS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "stages", "registry", "serving")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "gptqmodel", "lm_eval", "accelerate"}
MODULE_LINES = 300
FOLDER_MODULES = 18
FUNCTION_LINES = 40


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything a module imports, at any depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def imported_anywhere() -> set[str]:
    """Top-level names of everything that the product imports."""
    return set().union(*(imported(ast.parse(p.read_text("utf-8"))) for p in SOURCES))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    found = {str(p.relative_to(ROOT)): ast.parse(p.read_text("utf-8")) for p in SOURCES}
    assert len(found) > 20, "the source tree was not found"
    return found


def test_imports_point_one_way() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_heavy_libraries_only_in_backends(trees: dict[str, ast.Module]) -> None:
    offenders = {
        name: sorted(found)
        for name, tree in trees.items()
        if not name.startswith("stages/backends/") and (found := imported(tree) & HEAVY)
    }
    assert not offenders


MAY_NAME_TAGS = (
    "stages/quantization/",
    "registry/quantization.py",
    "registry/compat/engine.py",  # one of its checks is called gptq
    # what an import finds in a stranger's files is told by its form, which is called as a method is
    "stages/untrusted/",
    "flows/exchange/artifact_import.py",
    "flows/exchange/import_findings.py",
)


def tags_decided_on(tree: ast.AST) -> Iterator[str]:
    """Tags of quantization methods that are compared or looked up, and their configs in isinstance."""
    configs = {method.config.__name__ for method in METHODS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            sides = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield from (name.id for name in ast.walk(node) if getattr(name, "id", "") in configs)
            continue
        else:
            continue
        values = {getattr(part, "value", None) for side in sides for part in ast.walk(side)}
        yield from values & {method.tag for method in METHODS}


def test_a_quantization_method_is_asked_and_not_compared(trees: dict[str, ast.Module]) -> None:
    found = {name: [*tags_decided_on(tree)] for name, tree in trees.items()}
    offenders = {name: tags for name, tags in found.items() if tags and not name.startswith(MAY_NAME_TAGS)}
    assert not offenders, "ask the method (stages/quantization), or the manifest's QuantSpec"


@pytest.mark.parametrize(
    "code", ["a == 'gguf'", "a in ('none', 'gptq')", "{'gguf': 1}[a]", "isinstance(a, GptqConfig)"]
)
def test_a_branch_on_a_method_is_found(code: str) -> None:
    assert [*tags_decided_on(ast.parse(code))]


def test_llama_cpp_only_in_backends_and_serving(trees: dict[str, ast.Module]) -> None:
    allowed = ("stages/backends/", "serving/")
    assert not [n for n, t in trees.items() if not n.startswith(allowed) and "llama_cpp" in imported(t)]


def test_prefect_only_in_flows(trees: dict[str, ast.Module]) -> None:
    assert not [n for n, t in trees.items() if not n.startswith("flows/") and "prefect" in imported(t)]


def test_no_rooms_without_a_name() -> None:
    banned = {"utils.py", "helpers.py", "util.py", "helper.py", "common.py", "misc.py"}
    assert not [p for p in SOURCES if p.name in banned]


def test_no_names_that_say_nothing(trees: dict[str, ast.Module]) -> None:
    allowed = {"BaseConfig", "BaseReference"}  # the base *model*, one of the eight words
    offenders = [
        f"{name}: {node.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.name not in allowed
        and (node.name.endswith(("Manager", "Handler")) or node.name.startswith("Base"))
    ]
    assert not offenders


def test_modules_and_functions_are_short(trees: dict[str, ast.Module]) -> None:
    long_modules = {
        p.name: n for p in SOURCES if (n := len(p.read_text("utf-8").splitlines())) > MODULE_LINES
    }
    long_functions = {
        f"{name}:{node.name}": size
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := lines_of_code(node)) > FUNCTION_LINES
    }
    assert not long_modules
    assert not long_functions


def test_folders_hold_few_modules() -> None:
    modules = Counter(str(p.parent.relative_to(ROOT)) for p in SOURCES if p.name != "__init__.py")
    assert not {folder: count for folder, count in modules.items() if count > FOLDER_MODULES}


def test_public_functions_have_docstrings(trees: dict[str, ast.Module]) -> None:
    missing = [
        f"{name}:{node.name}"
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and node.name != "main"
        and ast.get_docstring(node) is None
        and not (isinstance(node, ast.ClassDef) and node.bases)
    ]
    assert not missing


@pytest.mark.parametrize(
    "module",
    ["flows.cli", "flows.recipe", "flows.execute", "flows.gates.gate", "stages.train", "registry", "serving"],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    heavy = HEAVY | {"prefect", "llama_cpp", "pyarrow"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


_LOCKED = re.compile(r"[A-Za-z0-9._-]+==([0-9]+!)?[A-Za-z0-9.]+(; python_version >= \"3.1[23]\")?")


def test_the_lock_holds_exact_versions_and_nothing_of_one_machine() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert len(lines) > 100
    assert [line for line in lines[1:] if not _LOCKED.fullmatch(line)] == []
    assert lines[0].startswith("#")
