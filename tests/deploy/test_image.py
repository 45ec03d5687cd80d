"""The image: where it starts from, who it runs as, what it gets; test_containers.py builds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

Instructions = list[tuple[str, str]]


def test_the_images_base_is_an_argument_with_a_supported_python(
    dockerfile: Instructions, pyproject: dict[str, Any]
) -> None:
    wanted = pyproject["project"]["requires-python"].removeprefix(">=").partition(",")[0]
    assert [rest for name, rest in dockerfile if name == "FROM"] == [
        "${BASE_IMAGE} AS build",
        "${BASE_IMAGE}",
    ]
    assert dockerfile[0][0] == "ARG"
    base = rf"BASE_IMAGE=docker.io/library/python:{re.escape(wanted)}-slim-[a-z]+"
    assert re.fullmatch(base, dockerfile[0][1])


def test_the_image_runs_as_nobody_special(dockerfile: Instructions) -> None:
    last = dict(dockerfile)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last["USER"])
    position = [name for name, _ in dockerfile]
    assert position.index("USER") < position.index("ENTRYPOINT")
    assert "RUN" not in position[position.index("USER") :]
    assert f"--uid {last['USER'].partition(':')[0]}" in dict(dockerfile)["RUN"]


def test_the_images_command_is_installed(dockerfile: Instructions, pyproject: dict[str, Any]) -> None:
    last = dict(dockerfile)
    entry = ast.literal_eval(last["ENTRYPOINT"])
    assert entry[:2] == ["tini", "--"]
    assert entry[2] in pyproject["project"]["scripts"]
    assert "tini" in dict(dockerfile)["RUN"]


def test_the_image_gets_what_it_runs_and_nothing_else(pyproject: dict[str, Any], tree: Path) -> None:
    allowed = re.findall(r"^!(.+)$", (tree / "deploy" / "Dockerfile.dockerignore").read_text(), re.M)
    packages = {name.rstrip("*") for name in pyproject["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = packages | {"requirements.lock", "pyproject.toml", pyproject["project"]["readme"]}
    assert set(allowed) == needed
    assert all((tree / name).exists() for name in needed)


def test_amx_stays_out_of_the_image(dockerfile: Instructions) -> None:
    flags = next(rest for name, rest in dockerfile if name == "ENV" and "CXXFLAGS" in rest)
    for flag in ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16", "GGML_NATIVE=OFF"):
        assert flag in flags
