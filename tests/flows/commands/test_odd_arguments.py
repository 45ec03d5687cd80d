"""Every command with arguments that are mistakes: said in one message, and never called a defect."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from pathlib import Path

import pytest
import yaml

from flows import cli
from flows.errors import Usage, of_a_path
from flows.settings import Settings
from registry import Registry
from tests.flows.evaluation_files import POLICY
from tests.flows.lineages import family

ODD = {
    "empty": "",
    "missing file": "nowhere/at-all.yaml",
    "directory": "folder",
    "empty directory": "empty",
    "file as a directory": "text.txt/below",
    "empty file": "empty.yaml",
    "text": "text.txt",
    "a list": "list.yaml",
    "not YAML": "broken.yaml",
    "not UTF-8": "latin.yaml",
    "binary": "binary.gguf",
    "deep": "deep.json",
    "no file at all": "/dev/null",
    "loop": "loop",
    "long": "x" * 5000,
    "long path": "/".join(["y" * 200] * 30),
    "control characters": "a\x1b[31m\x07\rb",
    "half a character": "a\udcffb",
    "reference": "deadbeef",
    "version": "name@99999999999999999999",
    "unknown artifact": "0" * 64,
    "number": "-1",
    "huge": "9" * 400,
}
"""What stands for `{}` in a command, by what is odd about it."""

COMMANDS = """
check {}
check pico-smoke --set {}
check pico-smoke --set base.source=path:{}
check pico-smoke --set prepare.source=path:{}
check pico-smoke --set prepare.source={}
run {}
run pico-smoke --set {}
prepare --base {} --out new
prepare --base folder --out {} --set source=path:list.yaml
prepare --base folder --out new --set {}
merge --base {} --adapter folder --out new
merge --base folder --adapter {} --out new
quantize --model {} --out new --set method=gguf --set type=Q8_0
quantize --model folder --out {} --set method=gguf --set type=Q8_0
quantize --model folder --dataset {} --out new --set method=gptq
evaluate --model {} --out new
evaluate --model folder --dataset {} --out new
evaluate --model folder --adapter {} --base {} --out new
artifacts ls --kind {}
artifacts ls --limit {}
artifacts show {}
artifacts lineage {}
artifacts verify {}
artifacts verify folder --public-key {}
artifacts verify ARTIFACT --public-key {}
artifacts export {} new
artifacts export ARTIFACT {}
artifacts export ARTIFACT new --key {}
artifacts import {}
artifacts import {} --kind adapter --base {} --name {}
artifacts import folder --name {}
artifacts compat {} {}
artifacts compat ARTIFACT {}
artifacts compat ARTIFACT ARTIFACT --engine {}
artifacts compat ARTIFACT --context-length {}
artifacts gc --why {}
artifacts gc --keep-days {}
artifacts gc --history {}
endpoints stop {}
rollback {} --reason odd
rollback team/prod --reason {}
api --host {} --port 0
gate run {} --candidate ARTIFACT --channel team/prod
gate run policy.yaml --candidate {} --channel team/prod
gate run policy.yaml --candidate ARTIFACT --channel {}
gate run policy.yaml --candidate ARTIFACT --baseline {}
gate run policy.yaml --candidate {} --baseline {}
gate run policy.yaml --candidate folder --baseline {}
gate run policy.yaml --candidate folder --baseline folder --parent {}
gate run policy.yaml --candidate folder --baseline folder --latency {}
gate run policy.yaml --candidate folder --baseline folder --trained-on {}
gate run policy.yaml --candidate folder --baseline folder --quant {}
gate run policy.yaml --candidate folder --baseline folder --junit {}
gate run policy.yaml --candidate ARTIFACT --channel team/prod --markdown {}
gate run policy.yaml --candidate ARTIFACT --channel team/prod --latency {}
gate plan {}
gate plan policy.yaml --flip-rate {}
gate plan policy.yaml --items {}
gate plan policy.yaml --spread {}
gate show {}
promote {} team/prod
promote ARTIFACT {}
promote ARTIFACT team/prod --decision {}
promote ARTIFACT {} --waive --reason {} --who {}
channels show {}
channels policy {}
channels policy team/prod --set {}
channels policy {} --set policy.yaml --reason {}
channels rollout {}
channels rollout team/prod {} --canary 5 --reason odd
channels rollout team/prod ARTIFACT --canary {} --reason odd
channels rollout team/prod --stop --reason {}
channels outcomes {}
channels outcomes team/prod --since {}
channels outcomes team/prod --artifact ARTIFACT --latency {}
channels outcomes team/prod --artifact {} --latency new
tenants add {} team/prod
tenants add mine {}
tenants add other team/prod --tokens-per-day {}
tenants add third team/prod --who {}
tenants show {}
tenants set {} --channel team/prod
tenants rotate {}
tenants rotate mine --overlap {}
tenants revoke {}
tenants revoke mine --key {}
tenants audit {}
serve {} --check
serve serve.yaml --check --set {}
chat {} --message hello
chat team/prod --url {} --message hello
runs ls --limit {}
runs show {}
runs open {}
recipes show {}
recipes copy {}
recipes copy pico-smoke {}
completion {}
{}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with odd files, and a home with a few artifacts."""
    here = tmp_path_factory.mktemp("odd")
    for folder in ("folder", "empty"):
        (here / folder).mkdir()
    (here / "folder" / "config.json").write_text("[]")
    (here / "empty.yaml").touch()
    (here / "text.txt").write_text("this is a text\n")
    (here / "list.yaml").write_text("[1, 2]\n")
    (here / "broken.yaml").write_text("a: [1\n b: }")
    (here / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    (here / "binary.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 4)
    (here / "deep.json").write_text("[" * 5_000)
    (here / "loop").symlink_to("loop")
    (here / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    (here / "serve.yaml").write_text("engines:\n  - {engine: llama.cpp, model: base@1}\n")
    with Registry.open(here / "home") as registry:
        artifact = family(registry)["gguf"].id
    (here / "artifact").write_text(artifact)
    return here


def ran(words: list[str]) -> tuple[int, str, str]:
    """Exit code, standard error and standard output of a command in this process."""
    said, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            code = cli.main(words)
        except SystemExit as left:
            code = int(str(left.code))
    return code, said.getvalue(), out.getvalue()


EACH = 3
"""Odd arguments that each command gets; another three for the next, so that each kind meets many commands."""
SLOW = ("prepare", "merge", "quantize", "evaluate", "artifacts import", "artifacts export ARTIFACT {}")
"""What looks at a file in a process of its own, or writes; these get one."""


def cases() -> list[tuple[str, str]]:
    names, found = list(ODD), []
    for number, command in enumerate(COMMANDS.strip().splitlines()):
        each = 1 if command.startswith(SLOW) else EACH
        found += [(command, names[(number * EACH + step) % len(names)]) for step in range(each)]
    return found


@pytest.mark.parametrize(("command", "odd"), cases())
def test_a_mistake_is_said_and_is_no_defect(
    command: str, odd: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(place / "home"))
    monkeypatch.setenv("TUNELINE_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)
    known = {"{}": ODD[odd], "ARTIFACT": (place / "artifact").read_text(), "new": str(tmp_path / "new")}
    code, said, out = ran([known.get(word, word) for word in command.split()])
    assert code in (0, 1, 2, 3), said
    assert "Traceback" not in said
    assert "defect" not in said
    assert len(re.findall("^tuneline[ a-z]*:", said, re.MULTILINE)) <= 1, said
    assert out or said
    assert not set(said) & set("\x1b\x07\r"), "what a user or a file wrote drives no terminal"


@pytest.mark.parametrize("variable", ["WAIT_SECONDS"])
@pytest.mark.parametrize("value", ["abc", "-1", "nan"])
def test_a_setting_that_is_wrong_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(place / "home"))
    monkeypatch.setenv(f"TUNELINE_{variable}", value)
    code, said, _ = ran(["artifacts", "ls"])
    assert code == 3
    assert said.startswith(f"tuneline: TUNELINE_{variable}: expected ")
    assert f"found '{value}'" in said
    assert said.count("\n") == 1


def test_a_secret_setting_is_not_shown() -> None:
    with pytest.raises(Usage, match="TUNELINE_DATABASE_URL: expected") as refused:
        Settings(database_url=["postgresql://me:hush@host/db"])
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("number", "name"),
    [("ENOENT", "x"), ("EACCES", "x"), ("ENOSPC", None), ("EISDIR", "x"), ("ENOTDIR", "x"), ("EROFS", "x")],
)
def test_what_the_system_refuses_is_no_defect(
    number: str, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = getattr(errno, number)

    def refused(_: object) -> None:
        raise OSError(code, os.strerror(code), name)

    monkeypatch.setattr("flows.commands.pipeline.recipes.ls", refused)
    assert ran(["recipes", "ls"])[0] == 3
    said = ran(["recipes", "ls"])[1]
    assert said.startswith(f"tuneline: {name or 'the disk'}: {os.strerror(code).lower()}; ")


def test_an_error_of_no_path_stays_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise OSError(errno.ENOENT, "no such process")

    monkeypatch.setattr("flows.commands.pipeline.recipes.ls", broken)
    code, said, _ = ran(["recipes", "ls"])
    assert (code, "this is a defect" in said) == (4, True)
    assert of_a_path(ValueError("x")) is None


@pytest.mark.parametrize("name", ["broken", "deep", "latin", "a list", "wrong sizes"])
def test_a_base_whose_config_is_none(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(place / "home"))
    config = {
        "broken": b"{", "deep": b"[" * 5_000, "latin": b'{"model_type": "\xff"}', "a list": b"[]",
        "wrong sizes": b'{"hidden_size": "many", "num_hidden_layers": 2, "num_attention_heads": 0, '
        b'"vocab_size": [], "model_type": "llama"}',
    }[name]  # fmt: skip
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    code, _, out = ran(["check", "pico-smoke", "--set", f"base.source=path:{tmp_path}"])
    assert code == 3
    assert "Problem: base.source: " in out
    assert "config.json" in out
