"""The command line as a whole: versions, lists, flags, completion, pipes."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from flows import cli, commands
from flows.recipe import load, shipped
from registry import Registry
from tests.seconds import seconds

TUNELINE = Path(sys.executable).with_name("tuneline")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Registry.open(tmp_path / "home").close()
    return tmp_path / "home"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"tuneline {version('tuneline')}\n"


@pytest.mark.parametrize("group", cli.LISTED)
def test_a_group_without_an_action_lists(group: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words in ([group, "--json"], [group, "ls", "--json"]):
        assert cli.main(words) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    with pytest.raises(SystemExit) as end:
        cli.main([group, "sohw"])
    assert end.value.code == 3
    assert "invalid choice: 'sohw'" in capsys.readouterr().err


def test_json_counts_wherever_it_stands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["channels", "--json", "show", "team/prod"]) == 3
    assert json.loads(capsys.readouterr().out)["exit_code"] == 3


def test_recipes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(shipped())
    assert cli.main(["recipes", "show", "demo"]) == 0
    assert capsys.readouterr().out == shipped()["demo"].read_text("utf-8")
    assert cli.main(["recipes", "show", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(shipped()["demo"].read_text("utf-8"))
    assert cli.main(["recipes", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["required"]) == {"name", "base", "prepare"}
    assert cli.main(["recipes", "show", "dmeo"]) == 3
    assert "did you mean 'demo'?" in capsys.readouterr().err


def test_a_copied_recipe_is_one_and_nothing_is_overwritten(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home.parent
    assert cli.main(["recipes", "copy", "pico-smoke"]) == 0
    assert load(str(folder / "pico-smoke.yaml")) == load("pico-smoke")
    (folder / "pico-smoke.yaml").write_text("mine")
    assert cli.main(["recipes", "copy", "pico-smoke"]) == 3
    assert (folder / "pico-smoke.yaml").read_text() == "mine"
    (folder / "recipes").mkdir()
    assert cli.main(["recipes", "copy", "pico-smoke", "recipes"]) == 0
    assert (folder / "recipes" / "pico-smoke.yaml").is_file()


def completed(line: str, folder: Path) -> list[str]:
    """What a real bash offers for TAB at the end of `line`."""
    script = f"""
        source <("{TUNELINE}" completion bash)
        COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); COMP_TYPE=9
        [[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        function=$(complete -p tuneline | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" tuneline "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}" 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{TUNELINE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True, text=True, check=True, cwd=folder, env={**os.environ, "PATH": path},
    )  # fmt: skip
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


def test_bash_completes_commands_actions_options_and_recipes(tmp_path: Path) -> None:
    (tmp_path / "pico-mine.yaml").write_text("name: mine")
    assert completed("tuneline art", tmp_path) == ["artifacts"]
    assert set(completed("tuneline runs ", tmp_path)) >= {"ls", "show", "open"}
    assert completed("tuneline artifacts gc --keep", tmp_path) == ["--keep-days"]
    assert completed("tuneline run pico-", tmp_path) == ["pico-smoke", "pico-tenant", "pico-mine.yaml"]
    assert completed("tuneline recipes copy de", tmp_path) == ["demo"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ARGCOMPLETE" in script
    if shell == "fish":
        assert "complete --command tuneline" in script
    else:
        assert script.startswith("#compdef tuneline\n")
        assert script.index("compinit") < script.index("compdef _python"), "a bare zsh has no compdef"


def test_a_command_is_imported_without_looking_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import gc; looked = gc.isenabled(); do = lambda arguments: looked; {}"
    for name, end in (("probe_whole", ""), ("probe_broken", "1 / 0")):
        (tmp_path / f"{name}.py").write_text(code.format(end))
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert cli._command("probe_whole:do")(argparse.Namespace()) is False
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        cli._command("probe_broken:do")
    assert gc.isenabled()


def test_a_reader_that_goes_away_changes_no_exit_code(home: Path) -> None:
    """Through rich's table and through print; with the exit code of the command itself."""
    for words, code in (
        ("artifacts ls", 0),
        ("recipes ls", 0),
        ("recipes show demo", 0),
        ("recipes schema", 0),
        ("run --help", 0),
        ("--version", 0),
    ):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([TUNELINE, *words.split()], stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        assert (done.returncode, done.stderr) == (code, b"")


def test_a_reader_that_goes_away_changes_no_code_of_an_error(home: Path) -> None:
    """Neither to 1, which is a failed gate's, nor to the 120 of an output that cannot be flushed."""
    for words in ("recipes show nothing", "recipes show nothing --json", "recipes show nothing --debug"):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([TUNELINE, *words.split()], stdout=write, stderr=write)
        os.close(write)
        assert done.returncode == 3, words


WORKS = """
import sys
from flows import cli
from flows.commands.pipeline import recipes
from flows.commands.reply import Reply
from flows.run.readers import remark

def works(arguments):
    for stream in sys.argv[1:]:
        for step in range(2):
            print("done", flush=True) if stream == "stdout" else remark("under way")
    return Reply(None, lambda: print("all of it"))

recipes.ls = works
sys.exit(cli.main(["recipes", "ls"]))
"""


def without_reader(*writes: str, of: str) -> subprocess.CompletedProcess[bytes]:
    """A command that writes to these while it works, and the stream `of` has no reader."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, of: write}
    done = subprocess.run([sys.executable, "-c", WORKS, *writes], timeout=seconds(60), **streams)
    os.close(write)
    return done


def test_a_command_that_prints_while_it_works_ends_with_its_reader() -> None:
    done = without_reader("stderr", "stdout", of="stdout")
    assert (done.returncode, done.stderr) == (130, b"under way\n" * 2)


def test_a_command_goes_on_whose_remarks_nobody_reads() -> None:
    done = without_reader("stderr", "stdout", of="stderr")
    assert (done.returncode, done.stdout) == (0, b"done\n" * 2 + b"all of it\n")


def test_a_pipe_that_breaks_elsewhere_is_still_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: argparse.Namespace) -> None:
        raise BrokenPipeError("a socket")

    monkeypatch.setattr("flows.commands.pipeline.recipes.ls", broken)
    assert cli.main(["recipes", "ls"]) == 4
    assert "BrokenPipeError: a socket" in capsys.readouterr().err
