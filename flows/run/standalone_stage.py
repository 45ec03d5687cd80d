"""One stage on plain directories, without a registry: people adopt one piece first."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from flows.configuration.overrides import apply_overrides, parse_overrides
from flows.configuration.validation import validate
from flows.errors import Usage
from flows.recipe import anchor
from flows.run.arithmetic import settle
from flows.run.child import run_in_child
from flows.run.find_or_make import as_parent
from flows.run.fingerprint import tree_stamp
from flows.run.progress_view import ProgressView
from flows.settings import Settings
from registry import Registry
from registry.artifacts import JsonObject, Kind
from registry.drafts import CHECKPOINTS
from registry.errors import NotFound
from stages.compatible import require_compatible
from stages.contract import Parent, StageConfig
from stages.errors import StageKilled
from stages.model_shape import describe_base
from stages.run import config_type
from stages.untrusted.inspect import inspect

KINDS: dict[str, Kind] = {"base": "base", "model": "merged", "adapter": "adapter", "dataset": "dataset"}


def run_plain(stage: str, parents: dict[str, Path], overrides: Sequence[str], out: Path) -> JsonObject:
    """Run `stage` on directories and write its result to the new directory `out`; returns its facts.

    The result appears all at once. What an attempt that was killed had finished is used again, where the
    stage keeps such. Raises `Usage` for a missing input or an `out` that exists already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Usage(
            f"{out} exists already; --out must name a new or empty directory (nothing is overwritten)"
        )
    out = out.absolute()  # the stage runs in a directory of its own
    config = _config(stage, overrides)
    inputs = {role: _parent(role, path) for role, path in parents.items()}
    config = _settled(config, inputs)
    require_compatible(stage, config, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    log = Path(tempfile.gettempdir()) / f"tuneline-{stage}-{draft.name.rpartition('-')[2]}.log"
    try:
        with ProgressView() as view, _locked(draft):
            _take_checkpoints(draft, out)
            view.stage(stage)
            execution = run_in_child(stage, inputs, config, draft, log, view.update)
        (draft / "tuneline-facts.json").write_text(json.dumps(execution.facts, indent=1), encoding="utf-8")
        if out.exists():
            out.rmdir()
        draft.chmod(0o755)
        draft.rename(out)
    except StageKilled as error:
        _clear(draft, keep=CHECKPOINTS)
        if draft.exists():
            raise StageKilled(
                f"{error}; what it had finished is in {draft}, for the same command again"
            ) from None
        raise
    except BaseException:
        _clear(draft)
        raise
    log.unlink(missing_ok=True)
    return execution.facts


def _clear(draft: Path, keep: str | None = None) -> None:
    """Delete `draft` but for what is called `keep` in it."""
    for path in draft.iterdir() if draft.is_dir() else ():
        if path.is_dir() and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
        elif not path.is_dir():
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something is kept
        draft.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock `folder` for as long as this lives; False where another has, or locks cannot be had."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _take_checkpoints(draft: Path, out: Path) -> None:
    """Move the checkpoints of an earlier draft of `out`, whose process is gone, into `draft`."""
    for left in out.parent.glob(f".{glob.escape(out.name)}-????????/{CHECKPOINTS}"):
        with contextlib.suppress(OSError), _locked(left.parent) as free:  # OSError: it is somebody else's
            if free:
                left.rename(draft / CHECKPOINTS)
                left.parent.rmdir()
                return


def _settled(config: BaseModel, parents: Mapping[str, Parent]) -> BaseModel:
    """`config` with this machine's answer for each `compute_dtype: auto`."""
    for role in ("base", "model"):
        if role in parents and (parents[role].path / "config.json").is_file():
            return settle(config, describe_base(f"path:{parents[role].path}"), Settings())[0]
    return config


def _from_registry(role: str, ref: str) -> Parent:
    settings = Settings()
    if not (settings.root / "registry.db").exists() and settings.database_url is None:
        raise Usage(f"--{role} {ref} does not exist, and there is no registry in {settings.root}")
    registry = Registry.open(settings.root, settings.database_url, settings.store_url)
    try:
        artifact = registry.get(ref)
    except NotFound as error:
        raise Usage(f"--{role} {ref}: no such directory, and no such artifact: {error}") from None
    return as_parent(registry, artifact)


def _config(stage: str, overrides: Sequence[str]) -> BaseModel:
    tree: dict[str, Any] = {}
    changes = parse_overrides(overrides)
    apply_overrides(tree, changes)
    fields: dict[str, Any] = {stage: (config_type(stage), ...)}
    section = create_model("Section", __base__=StageConfig, **fields)
    whole = anchor({stage: tree}, Path.cwd())
    config: BaseModel = getattr(
        validate(section, whole, f"the settings of {stage}", changes, {stage: {}}, below=(stage,)), stage
    )
    return config


def _parent(role: str, path: Path) -> Parent:
    """A directory (or a GGUF file) with what Tuneline itself once recorded about it, if it did.

    Where no such path exists, the artifact of that reference. Models and adapters are looked at in a limited
    child before anything else reads them.
    """
    if not path.exists():
        return _from_registry(role, str(path))
    path = path.resolve()
    form = inspect(path)["form"] if role != "dataset" else None
    if form == "gguf-adapter" and role != "adapter":
        raise Usage(
            f"--{role} {path} is a GGUF adapter; give it with --adapter, and a GGUF of its base with --model"
        )
    folder = path.parent if path.is_file() else path
    fields: dict[str, Any] = {"kind": KINDS[role]}
    if path.suffix == ".gguf" and role != "adapter":
        fields["kind"] = "quantized"
    facts = folder / "tuneline-facts.json"
    if facts.is_file():
        try:
            recorded = json.loads(facts.read_text("utf-8"))
            fields = {key: recorded[key] for key in ("kind", "base", "quant", "metrics")}
            return Parent(id=tree_stamp(path), path=folder, **fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Usage(
                f"{facts} is damaged ({error}); delete it to treat {folder} as any other directory"
            ) from None
    return Parent(id=tree_stamp(path), path=folder, **fields)
