"""Nothing that Tuneline starts, declares or documents phones home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from flows.settings import NO_TELEMETRY

PREFECT_SERVER = re.compile(r"^.*\bprefect server start\b.*$", re.M)


def test_every_container_that_is_declared_is_told(tree: Path, dockerfile: list[tuple[str, str]]) -> None:
    services = yaml.safe_load((tree / "deploy" / "compose.yaml").read_text())["services"]
    wanted = {name: NO_TELEMETRY[name] for name in set(NO_TELEMETRY) - {"VLLM_NO_USAGE_STATS"}}
    for service in services.values():
        assert service["environment"].items() >= wanted.items()
    image = " ".join(rest for name, rest in dockerfile if name == "ENV").split()
    assert {f"{name}={value}" for name, value in wanted.items()} <= set(image)


def test_every_documented_server_is_told(tree: Path) -> None:
    places = [*(tree / "docs").glob("*.md"), *tree.glob("*.md"), *(tree / "deploy").rglob("*.y*ml")]
    found = [(place, place.read_text("utf-8")) for place in places]
    found = [(place, text) for place, text in found if PREFECT_SERVER.search(text)]
    assert found, "the documents say how to start Prefect's server"
    for place, text in found:
        for start in PREFECT_SERVER.finditer(text):
            before = text[: start.end()].splitlines()[-3:]
            assert any("PREFECT_SERVER_ANALYTICS_ENABLED=false" in line for line in before), place


def test_a_command_tells_the_libraries_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, flows.cli, flows.commands.registry.artifacts as artifacts\n"
        "artifacts.gc = lambda a: artifacts.Reply({}, lambda: print(dict(os.environ)))\n"
        "flows.cli.main(['artifacts', 'gc'])\n"
    )
    bare = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**bare, "TUNELINE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name, value in NO_TELEMETRY.items():
        assert f"'{name}': '{value}'" in done.stdout
