"""Who watches a step may end it: a pruned one leaves nothing, any other can be gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flows.errors import Pruned
from flows.run.step import failed_row
from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[3]
STAGE = """
    import os, pathlib, threading
    from stages.contract import Facts, Parents, StageConfig, progress
    VERSION, TOOLS, RELATIONS = 1, (), {}

    class Config(StageConfig):
        what: str

    def probe(parents: Parents, config: Config, out: pathlib.Path) -> Facts:
        (out / "checkpoints").mkdir(exist_ok=True)
        (out / "checkpoints" / "step-1").write_text(str(os.getpid()))
        progress(1, 2, "steps", validation_loss=2.5)
        threading.Event().wait()
        return Facts(kind="dataset")
"""
RUN = """
import json, sys
from pathlib import Path
from flows.errors import Pruned
from flows.run.progress_view import ProgressView
from flows.run.step import Run
from registry import Registry
from stages.contract import StageConfig

class Probe(StageConfig):
    what: str

home, error = Path(sys.argv[1]), {"pruned": Pruned, "stopped": RuntimeError}[sys.argv[2]]
heard = []

def look(event):
    heard.append(event)
    raise error("it is behind")

with Registry.open(home) as registry, ProgressView() as view:
    run = Run(registry, view, home / "run")
    try:
        with run.watched(look):
            run.step("probe", Probe(what=sys.argv[2]), "work")
    except (Pruned, RuntimeError) as caught:
        (row,) = run.rows
        print(json.dumps([row.state, row.note, str(caught), heard]))
"""


@pytest.mark.parametrize(("how", "state"), [("pruned", "pruned"), ("stopped", "failed")])
def test_what_a_watcher_raises_ends_the_step(tmp_path: Path, how: str, state: str) -> None:
    folder, home = tmp_path / "more", tmp_path / "home"
    folder.mkdir()
    (folder / "probe.py").write_text(textwrap.dedent(STAGE))
    (folder / "sitecustomize.py").write_text(f"import stages\nstages.__path__.append({str(folder)!r})\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(home), how],
        capture_output=True,
        text=True,
        timeout=seconds(120),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr
    event = {"done": 1, "total": 2, "unit": "steps", "validation_loss": 2.5}
    assert json.loads(done.stdout) == [state, "it is behind", "it is behind", [event]]
    assert f"work: {'pruned' if how == 'pruned' else 'FAILED'} after " in done.stderr
    kept = [path.read_text() for path in (home / "drafts").rglob("step-1")]
    assert len(kept) == (0 if how == "pruned" else 1), "nobody goes on with what was pruned"


def test_the_row_of_a_pruned_step() -> None:
    row = failed_row("trial 3: train adapter", "train", 1.0, Pruned("behind"))
    assert (row.state, row.note, row.artifact_id) == ("pruned", "behind", None)
