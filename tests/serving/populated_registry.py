"""A registry as a gateway finds it: a pico base, its GGUF, and adapters of it that each know one answer.

    python -m tests.serving.populated_registry HOME --adapters 4

publishes them with the stages and the import that users have, and prints what was made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.exchange.artifact_import import adopt
from flows.exchange.bring_base import resolved
from flows.run.find_or_make import as_parent, find_or_make, stage_inputs
from registry import Artifact, Registry, Waiver
from registry.artifacts import digest
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import NO_WAIT
from stages import merge, quantize
from stages.config.base import BaseConfig
from stages.config.merge import MergeConfig
from stages.contract import Facts, toolchain
from stages.quantization.gguf import GgufConfig
from stages.run import run_stage
from tests.kept import kept
from tests.serving.canaries import Family, kept_family

WAIVER = Waiver("made for a test", "tests")
F16 = GgufConfig(method="gguf", type="F16")
MERGE = MergeConfig(base="16bit", dtype="bfloat16")


@dataclass(frozen=True)
class AdapterFixture:
    """One adapter, as a PEFT directory and as a GGUF file, and the only answer it knows."""

    peft: str
    gguf: str
    answer: str
    merged: str
    """The GGUF of base and adapter in one; of the first two adapters, else empty."""


@dataclass(frozen=True)
class PopulatedRegistry:
    """Ids of what is in the registry at `home`."""

    home: Path
    base: str
    gguf: str
    adapters: tuple[AdapterFixture, ...]
    stranger: str
    """A GGUF adapter of another base."""


def kept_registry(checkout: Path, home: Path, adapters: int) -> PopulatedRegistry:
    """A copy, at `home`, of a populated registry that an earlier run left in `.cache/`, or of a new one."""
    made_by = [Path(__file__).read_text("utf-8"), Path(__file__).with_name("canaries.py").read_text("utf-8")]
    made_by += [toolchain(quantize.TOOLS), quantize.VERSION, merge.VERSION]
    folder = checkout / ".cache" / f"populated-{digest(made_by)[:16]}-{adapters}"

    def make(draft: Path) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # libraries say things; trials print one document
            populate(draft, kept_family(checkout, adapters))

    kept(folder, make)
    shutil.copytree(folder, home, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns("views"))
    return read_populated(home)


def read_populated(home: Path) -> PopulatedRegistry:
    """What `populate` published."""
    made = json.loads((home / "populated.json").read_text())
    return PopulatedRegistry(
        home,
        made["base"],
        made["gguf"],
        tuple(AdapterFixture(**one) for one in made["adapters"]),
        made["stranger"],
    )


def populate(home: Path, family: Family) -> None:
    """Resolve, import, merge and quantize, as a user would."""
    with Registry.open(home) as registry:
        base = resolved(registry, BaseConfig(source=f"path:{family.base}"), home / "resolve.log")
        gguf = _made(registry, "quantize", {"model": base})
        registry.name(gguf.id, "pico-base")
        adapters = []
        for number, canary in enumerate(family.canaries):
            peft = adopt(registry, canary.peft, base=base.id).artifact
            made = _made(registry, "quantize", {"model": peft, "base": base})
            merged = ""
            if number < 2:
                whole = _made(registry, "merge", {"base": base, "adapter": peft})
                merged = _made(registry, "quantize", {"model": whole}).id
            adapters.append({"peft": peft.id, "gguf": made.id, "answer": canary.answer, "merged": merged})
        other = resolved(registry, BaseConfig(source="pico:7"), home / "resolve.log")
        peft = adopt(registry, family.canaries[0].peft, base=other.id).artifact
        stranger = _made(registry, "quantize", {"model": peft, "base": other})
    ids = {"base": base.id, "gguf": gguf.id, "adapters": adapters, "stranger": stranger.id}
    (home / "populated.json").write_text(json.dumps(ids, indent=1))


def quantized(registry: Registry, parents: Mapping[str, Artifact]) -> Artifact:
    """A model, or an adapter with its base, as GGUF, published."""
    return _made(registry, "quantize", parents)


def _made(registry: Registry, stage: str, parents: Mapping[str, Artifact]) -> Artifact:
    """What the stage makes of the parents, published."""
    config = F16 if stage == "quantize" else MERGE

    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        seen = {role: as_parent(registry, parent) for role, parent in parents.items()}
        facts = Facts.model_validate(run_stage(stage, seen, config, draft.path))
        return facts, ResourceUse(datetime.now(UTC), 0.0)

    return find_or_make(registry, stage_inputs(stage, config, parents), make, NO_WAIT)[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--adapters", type=int, default=4)
    given = arguments.parse_args()
    print(kept_registry(Path(__file__).resolve().parents[2], given.home, given.adapters))


if __name__ == "__main__":
    main()
