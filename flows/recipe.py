"""A recipe: one YAML file, one run. Load it, override keys, say clearly what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from flows.errors import InvalidRecipe
from flows.gates.gate import GatePolicy
from flows.ladder.rungs import LadderConfig
from stages.contract import StageConfig
from stages.deploy import DeployConfig
from stages.evaluate import EvaluateConfig
from stages.merge import MergeConfig
from stages.prepare import PrepareConfig
from stages.quantize import GgufConfig, QuantizeConfig, check_gguf_type
from stages.resolve import BaseConfig
from stages.train import TrainConfig

M = TypeVar("M", bound=BaseModel)
SHIPPED = Path(__file__).parent / "recipes"


class PromoteConfig(StageConfig):
    """Which result is offered to which channel."""

    channel: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*$", description="TEAM/NAME, e.g. support/prod"
    )
    candidate: str = Field(
        default="gguf-q4_k_m",
        description="label of a quantize entry (`gptq-4bit`, `gguf-q4_k_m`, …), `merged`, or `adapter`",
    )


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

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        labels = [q.label for q in self.quantize]
        if len(set(labels)) != len(labels):
            raise ValueError(f"two quantize entries are the same: {', '.join(labels)}")
        if self.promote is not None:
            if self.gate is None:
                raise ValueError("promote needs a gate: a channel only moves on a passing gate decision")
            made = [*labels, "merged", *(["adapter"] if self.adapter else [])]
            if self.promote.candidate not in made:
                raise ValueError(
                    f"promote.candidate is {self.promote.candidate!r}; this recipe makes: {', '.join(made)}"
                )
            if self.promote.candidate == "adapter" and self.deploy is not None:
                raise ValueError(
                    "deploy starts an engine for one whole model, and promote.candidate is the adapter: "
                    "take deploy out (deploy: null); adapters are served by `tuneline serve`"
                )
        if self.gate is not None and self.gate.max_latency_ms is not None:
            raise ValueError(
                "gate.max_latency_ms: a run gates before it deploys and has no latency yet; take it out "
                "here, and gate with `tuneline gate POLICY --latency FILE` once it was measured"
            )
        if self.deploy is not None and self.promote is None:
            raise ValueError("deploy serves what was promoted: add a promote section")
        if self.train.max_length < self.prepare.max_length:
            raise ValueError(
                f"train.max_length ({self.train.max_length}) is less than prepare.max_length "
                f"({self.prepare.max_length}): rows would be cut; make them equal"
            )
        return self


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
    for override in overrides:
        apply_override(tree, override)
    folder = Path.cwd() if path.parent == SHIPPED else path.resolve().parent
    return validate(Recipe, anchor(tree, folder), where=str(path))


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice; plain YAML keeps the last one silently."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise InvalidRecipe(
                f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice; keep one"
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(path: Path) -> Any:
    """The document in a YAML file. Raises `InvalidRecipe` with line and column."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except InvalidRecipe as error:
        raise InvalidRecipe(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise InvalidRecipe(f"{path} is not valid YAML: {error}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidRecipe(f"{path} cannot be read: {error}") from None


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value` in `tree`; the value is YAML. Raises `InvalidRecipe`."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise InvalidRecipe(f"--set {override!r}: expected KEY.PATH=VALUE, for example train.epochs=2")
    node: Any = tree
    *parents, last = path.split(".")
    for part in parents:
        if isinstance(node, list):
            node = _item(node, part, override)
            continue
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            raise InvalidRecipe(f"--set {override!r}: {part!r} is a value, not a section")
    value = yaml.safe_load(text)
    if isinstance(node, list):
        _item(node, last, override)
        node[int(last)] = value
    else:
        node[last] = value


def _item(node: list[Any], part: str, override: str) -> Any:
    if not part.isdigit() or int(part) >= len(node):
        raise InvalidRecipe(
            f"--set {override!r}: {part!r} is no index of a list with {len(node)} entries (from 0)"
        )
    return node[int(part)]


def anchor(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make relative `path:` sources and file names absolute, seen from the recipe's folder."""
    for section, key in (("base", "source"), ("prepare", "source")):
        part = tree.get(section)
        if isinstance(part, dict) and isinstance(source := part.get(key), str) and source.startswith("path:"):
            part[key] = f"path:{folder / source.removeprefix('path:')}"
    base = tree.get("base")
    if isinstance(base, dict) and isinstance(base.get("chat_template"), str):
        base["chat_template"] = str(folder / base["chat_template"])
    evaluate = tree.get("evaluate")
    for task in evaluate.get("tasks") or () if isinstance(evaluate, dict) else ():
        if isinstance(task, dict) and isinstance(task.get("path"), str):
            task["path"] = str(folder / task["path"])
    return tree


def validate(model: type[M], tree: Any, where: str) -> M:
    """`tree` as a `model`; every problem on its own line with the key's path. Raises `InvalidRecipe`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise InvalidRecipe(f"{where}:\n  " + "\n  ".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ")
        found = problem.get("input")
        shown = (
            ""
            if isinstance(found, dict | list | BaseModel) or problem["type"] == "missing"
            else f" (found {found!r})"
        )
        return f"{path or 'recipe'}: {message}{shown}"
    last = str(problem["loc"][-1])
    if last == "trust_remote_code":
        return f"{path}: Tuneline never runs code that comes with a model; remove the key"
    valid = sorted(_keys_at(model, problem["loc"][:-1]))
    near = difflib.get_close_matches(last, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{path}: unknown key; {hint}valid keys here: {', '.join(valid)}"


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> set[str]:
    """Valid keys of the section at `location` (pydantic's path, which names union tags and list indices)."""
    candidates = {model}
    for part in location:
        fields = [m.model_fields[part].annotation for m in candidates if part in m.model_fields]
        if fields:
            candidates = {found for annotation in fields for found in _models(annotation)}
        else:
            tagged = {m for m in candidates if m.__name__ == part or part in _tags(m)}
            candidates = tagged or candidates
    return {key for m in candidates for key in m.model_fields}


def _tags(model: type[BaseModel]) -> set[Any]:
    return {
        tag
        for name in ("method", "kind")
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    }


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
