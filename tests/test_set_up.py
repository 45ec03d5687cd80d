"""`make setup`: what it says while it works, when a step fails and after Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / ".ci" / "set_up.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["set_up"] = module
    spec.loader.exec_module(module)
    return module


def step(script: ModuleType, code: str, title: str = "do it") -> object:
    return script.Step(title, "a second", [sys.executable, "-u", "-c", code], {"GIVEN": "7"}, "plug it in")


def test_each_step_says_what_it_does_how_long_it_takes_and_that_it_is_done(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        step(script, "print('one')", "first"),
        step(script, "import os; print(os.environ['GIVEN'])"),
    )
    assert script.set_up(tmp_path / "venv", [first, second]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "2 steps" in said[0]
    assert said[1] == "[1/2] first (usually a second)"
    assert "done, " in said[2]
    assert said[3].startswith("[2/2] do it")
    log = (tmp_path / "venv" / "set-up.log").read_text().splitlines()
    assert "one" in log
    assert "7" in log


def test_a_step_that_takes_long_says_that_it_lives(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "EVERY", 0.0)
    assert (
        script.set_up(tmp_path, [step(script, "import time; print('compiling 1 of 9'); time.sleep(2.2)")])
        == 0
    )
    assert "s  compiling 1 of 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("WARNING: Location 'file:///wheels/numpy/' is ignored\nDEPRECATION: old", "Collecting numpy"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken", "WARNING: Retrying (Retry(total=4))"),
    ],
)
def test_a_warning_of_pip_is_no_progress_but_a_try_again_is(
    script: ModuleType, tmp_path: Path, said: str, shown: str
) -> None:
    seen = tmp_path / "seen"
    os.mkfifo(seen)
    lines = f"Collecting numpy\n{said}"
    tool = step(script, f"print({lines!r}); open({str(seen)!r}).read()")
    heard: list[str] = []

    def show(line: str) -> None:
        if line and not heard:
            heard.append(line)
            seen.write_text("go on")

    code, last = script.run(tool, tmp_path / "log", show)
    assert code == 0
    assert heard[0].startswith(shown)
    assert last == lines.splitlines(), "why a step failed may stand in any of them"


def test_a_failure_shows_the_step_its_last_lines_and_the_remedy(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "[print('line', n) for n in range(40)]; raise SystemExit('no compiler')"
    assert script.set_up(tmp_path, [step(script, code), step(script, "print('never')", "later")]) == 1
    said = capsys.readouterr().out
    assert "[1/2] do it" in said
    assert "failed" in said
    assert "    no compiler" in said
    assert "line 39" in said
    assert "line 3\n" not in said
    assert "What to do: plug it in. Then run the same command" in said
    assert "later" not in said


def test_ctrl_c_ends_the_tool_and_says_how_to_go_on(script: ModuleType, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    os.mkfifo(heard)
    tell = "from pathlib import Path; Path(sys.argv[1]).write_text(str(os.getpid()))"
    code = (
        f"import signal, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import set_up\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        f"wait = 'import os, signal, sys; {tell}; signal.pause()'\n"
        f"step = set_up.Step('wait', 'long', [sys.executable, '-c', wait, {str(heard)!r}], {{}}, '')\n"
        f"sys.exit(set_up.set_up(Path({str(tmp_path)!r}), [step]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with open(os.open(heard, os.O_RDONLY | os.O_NONBLOCK), encoding="ascii") as told:  # noqa: PTH123
        assert select.select([told], [], [], seconds(30))[0], "the tool was not started"
        os.set_blocking(told.fileno(), True)
        tool = int(told.read())
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=seconds(30))
    assert process.returncode == 130
    assert "interrupted" in said
    assert "the same command goes on from here" in said
    with pytest.raises(ProcessLookupError):
        os.kill(tool, 0)


def test_the_steps_install_the_whole_lock_on_all_cores(script: ModuleType, tmp_path: Path) -> None:
    everything = script.steps(tmp_path)
    script.write_packages(tmp_path)
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    packages = (tmp_path / "packages.txt").read_text().splitlines()
    (runtime,) = set(lock) - set(packages)
    (compiled,) = [one for one in everything if runtime in one.command]
    assert compiled.environment == {
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(script.cores()))
    }
    assert not [one for one in everything if "--no-binary" in one.command], "a wheel that is there is taken"


@pytest.mark.parametrize(
    ("version", "refused"),
    [((3, 10), True), ((3, 11), False), ((3, 12), False), ((3, 13), False), ((3, 14), True)],
)
def test_pythons_that_are_not_supported_are_refused_by_name(
    script: ModuleType, version: tuple[int, int], refused: bool
) -> None:
    words = script.refusal(version)
    assert (words is not None) == refused
    if words:
        assert "3.11, 3.12, 3.13" in words


def test_the_environment_of_another_python_is_not_mixed_with_this_one(
    script: ModuleType, tmp_path: Path
) -> None:
    assert script.other_python(tmp_path / "none", (3, 13)) is None
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    assert script.other_python(tmp_path, (3, 11)) is None
    words = script.other_python(tmp_path, (3, 13))
    assert "Python 3.11.2" in words
    assert "make clean" in words


def test_clean_leaves_the_registry() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\nclean:")[2]
    removed = [line for line in recipe.splitlines() if line.strip().startswith("rm ")]
    assert removed
    assert not [line for line in removed if ".tuneline" in line]
