"""A recipe: one YAML file, one run. Load it, override keys, say clearly what is wrong with it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from flows.configuration.overrides import apply_overrides, parse_overrides
from flows.configuration.validation import validate
from flows.configuration.yaml_text import Tree, read_yaml
from flows.errors import InvalidRecipe
from flows.gates.gate import GatePolicy
from stages.config.base import BaseConfig
from stages.config.deploy import DeployConfig
from stages.config.evaluate import EvaluateConfig
from stages.config.judge_metric import FILES, names_file
from stages.config.merge import MergeConfig
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.contract import StageConfig
from stages.quantization import QuantizeConfig
from stages.quantization.gguf import GgufConfig, check_gguf_type

SHIPPED = Path(__file__).parent / "recipes"


class PromoteConfig(StageConfig):
    """Which result is offered to which channel."""

    channel: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}/[a-z0-9][a-z0-9_.-]{0,63}$",
        description="TEAM/NAME, e.g. support/prod",
    )
    candidate: str = Field(
        default="gguf-q4_k_m",
        description="label of a quantize entry (`gptq-4bit`, `gguf-q4_k_m`, …), `merged`, or `adapter`",
    )
    labels: str | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,
        description="file of people's labels of answers, which a judge is held against; docs/judge.md",
    )


class LadderConfig(StageConfig):
    """Each model is compared, token by token, with the one it was made from."""

    chats: int = Field(default=64, ge=2, description="first chats of the test split that are compared")
    tokens: int = Field(default=64, ge=1, description="last tokens of each chat that are compared")


class AdapterConfig(StageConfig):
    """Offer the adapter beside the merged model, to be served apart: many tenants, one base in memory."""

    base: str = Field(
        default="Q8_0",
        description="what it will be served and is measured over, shared by all tenants: a GGUF type (by "
        "llama.cpp), or `16bit`, the base as it is (by vLLM)",
    )
    type: Literal["F32", "F16", "BF16", "Q8_0"] | None = Field(
        default=None,
        description="GGUF type of the adapter itself, F16 if not given; over `16bit` it has none and stays "
        "as it was trained",
    )

    @field_validator("base")
    @classmethod
    def _known_type(cls, value: str) -> str:
        return value if value == "16bit" else check_gguf_type(value)

    @model_validator(mode="after")
    def _type_of_a_gguf(self) -> AdapterConfig:
        if self.on_16bit and self.type is not None:
            raise ValueError(
                f"type {self.type} is of a GGUF adapter, and over `base: 16bit` the adapter is served as it "
                "was trained: take type out (--set adapter.type=null)"
            )
        return self

    @property
    def on_16bit(self) -> bool:
        """Whether it stays a PEFT adapter, over the base as it is."""
        return self.base == "16bit"

    @property
    def resident(self) -> GgufConfig:
        """How the base is quantized for llama.cpp."""
        return GgufConfig(type=self.base)

    @property
    def own(self) -> GgufConfig:
        """How the adapter is converted for llama.cpp."""
        return GgufConfig(type=self.type or "F16")

    @property
    def label(self) -> str:
        return f"adapter on base {self.base}"


class Recipe(StageConfig):
    """Everything one run does, from data to endpoint."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="short name; lower case, digits, hyphens")
    description: str = Field(default="", description="a sentence for people")
    base: BaseConfig
    prepare: PrepareConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    ladder: LadderConfig | None = Field(
        default_factory=LadderConfig, description="null: models are measured on the tasks alone"
    )
    merge: MergeConfig = Field(default_factory=MergeConfig)
    quantize: tuple[QuantizeConfig, ...] = Field(
        default=(GgufConfig(),), description="one entry per served format"
    )
    adapter: AdapterConfig | None = Field(
        default=None, description="serve the adapter apart from its base; without it, merged only"
    )
    gate: GatePolicy | None = Field(default=None, description="without one nothing is promoted")
    promote: PromoteConfig | None = None
    deploy: DeployConfig | None = Field(default=None, description="without it nothing is started")

    @property
    def made(self) -> tuple[str, ...]:
        """What `promote.candidate` can name."""
        return (*(q.label for q in self.quantize), "merged", *(["adapter"] if self.adapter else []))

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        if problems := list(_misfits(self)):
            raise ValueError("\n".join(problems))
        return self


def _misfits(recipe: Recipe) -> Iterator[str]:
    """What keeps sections that are each valid from making one recipe."""
    labels, promote, deploy = [q.label for q in recipe.quantize], recipe.promote, recipe.deploy
    if len(set(labels)) != len(labels):
        yield f"two quantize entries are the same: {', '.join(labels)}"
    if promote is not None and recipe.gate is None:
        yield "promote needs a gate: a channel only moves on a passing gate decision"
    if promote is not None and promote.candidate not in recipe.made:
        yield f"promote.candidate is {promote.candidate!r}; this recipe makes: {', '.join(recipe.made)}"
    if promote is not None and promote.candidate == "adapter" and deploy is not None:
        yield (
            "deploy starts an engine for one whole model, and promote.candidate is the adapter: "
            "take deploy out (deploy: null); adapters are served by `tuneline serve`"
        )
    if recipe.gate is not None and recipe.gate.max_latency_ms is not None:
        yield (
            "gate.max_latency_ms: a run gates before it deploys and has no latency yet; take it out "
            "here, and gate with `tuneline gate POLICY --latency FILE` once it was measured"
        )
    if deploy is not None and promote is None:
        yield "deploy serves what was promoted: add a promote section"
    if recipe.train.max_length < recipe.prepare.max_length:
        yield (
            f"train.max_length ({recipe.train.max_length}) is less than prepare.max_length "
            f"({recipe.prepare.max_length}): rows would be cut; make them equal"
        )


def shipped() -> dict[str, Path]:
    """Name → file of the recipes that come with Tuneline."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped one of that name, with `a.b=value` overrides applied.

    Relative `path:` sources are taken from the recipe's folder; of a shipped recipe, from the current one.
    Raises `InvalidRecipe`.
    """
    path = shipped().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, shipped(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidRecipe(
            f"no recipe {name_or_path!r}: neither a file nor a shipped recipe ({', '.join(shipped())}){hint}"
        )
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InvalidRecipe(
            f"{path}: a recipe is a YAML mapping with a section per stage, found {type(tree).__name__}"
        )
    folder = Path.cwd() if path.parent == SHIPPED else path.resolve().parent
    given, before = parse_overrides(overrides), anchor(copy.deepcopy(tree), folder)
    apply_overrides(tree, given)
    return validate(Recipe, anchor(tree, folder), str(path), given, before)


def anchor(tree: Tree, folder: Path) -> Tree:
    """Make relative `path:` sources and file names absolute, seen from the recipe's folder."""
    base, prepare = tree.get("base"), tree.get("prepare")
    mix = prepare.get("mix") if isinstance(prepare, dict) else None
    for part in (base, prepare, *(mix if isinstance(mix, list) else ())):
        source = part.get("source") if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(source, str) and source.startswith("path:"):
            part["source"] = f"path:{folder / source.removeprefix('path:')}"
    if isinstance(base, dict) and isinstance(base.get("chat_template"), str):
        base["chat_template"] = str(folder / base["chat_template"])
    evaluate = tree.get("evaluate")
    tasks = evaluate.get("tasks") if isinstance(evaluate, dict) else None
    for task in tasks if isinstance(tasks, list) else ():
        metrics = task.get("metrics") if isinstance(task, dict) else None
        for part in (task, *(metrics if isinstance(metrics, list) else ())):
            if isinstance(part, dict):
                for key in ("path", *FILES):
                    if isinstance(name := part.get(key), str) and names_file(name):
                        part[key] = str(folder / name)
    promote = tree.get("promote")
    if isinstance(promote, dict) and isinstance(promote.get("labels"), str):
        promote["labels"] = str(folder / promote["labels"])
    return tree
