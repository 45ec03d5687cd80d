"""What a task on held-out rows can score of an answer; docs/metrics.md has each with its figures.

`scores` of a metric are the names under which an evaluation keeps it, and a gate's rule asks for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from stages.config.bounded import linear_pattern
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.judge_metric import JudgeMetric
from stages.config.user_metric import PythonMetric
from stages.contract import StageConfig

NAME = r"^[a-z][a-z0-9_]*$"
MOST_FIELDS = 32
"""Fields that are reported one by one."""
_SCORE = "what the score is called in reports and gates"


class ExactMetric(StageConfig):
    """The answer is the reference, white space at both ends aside."""

    kind: Literal["exact"] = "exact"

    @property
    def scores(self) -> tuple[str, ...]:
        return ("exact_match",)


class NormalizedMetric(StageConfig):
    """The same after both were normalized: case, white space and punctuation do not count."""

    kind: Literal["normalized"] = "normalized"
    name: str = Field(default="normalized_match", pattern=NAME, description=_SCORE)

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class ContainsMetric(StageConfig):
    """The answer contains the reference, or a given text, as whole words."""

    kind: Literal["contains"] = "contains"
    name: str = Field(default="contains", pattern=NAME, description=_SCORE)
    text: str | None = Field(
        default=None, min_length=1, description="what every answer has to contain; default: the reference"
    )
    normalize: bool = Field(default=True, description="compare both as `normalized` does")

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class RegexMetric(StageConfig):
    """A pattern is found in the answer."""

    kind: Literal["regex"] = "regex"
    name: str = Field(default="regex", pattern=NAME, description=_SCORE)
    pattern: str = Field(
        min_length=1,
        max_length=4096,
        description="in the syntax of Rust's regex crate, which takes linear time: no lookaround, no "
        "backreferences; `(?i)` ignores case, `(?s)` lets a dot match line ends, `^…$` asks for all of it",
    )

    @model_validator(mode="after")
    def _compiles(self) -> RegexMetric:
        linear_pattern(self.pattern)
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class NumberMetric(StageConfig):
    """A number in the answer is the reference's, up to a tolerance."""

    kind: Literal["number"] = "number"
    name: str = Field(default="number", pattern=NAME, description=_SCORE)
    take: Literal["first", "last"] = Field(default="last", description="which number of a text counts")
    absolute: float = Field(default=0.0, ge=0, description="difference that is let through")
    relative: float = Field(
        default=0.0, ge=0, lt=1, description="the same, as a share of the reference; the larger one counts"
    )

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class JsonMetric(StageConfig):
    """The answer is one JSON document, and nothing else."""

    kind: Literal["json"] = "json"

    @property
    def scores(self) -> tuple[str, ...]:
        return ("json_valid",)


class JsonSchemaMetric(StageConfig):
    """The answer is a JSON document that a JSON Schema accepts."""

    kind: Literal["json_schema"] = "json_schema"
    name: str = Field(default="json_schema", pattern=NAME, description=_SCORE)
    path: str | None = Field(default=None, description="file that holds the schema")
    inline: dict[str, Any] | None = Field(default=None, description="the schema itself")

    @model_validator(mode="after")
    def _one_schema(self) -> JsonSchemaMetric:
        if (self.path is None) == (self.inline is None):
            raise ValueError("json_schema needs either path, a file, or inline, the schema itself")
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class FieldsMetric(StageConfig):
    """Precision, recall and F1 of the values in a JSON answer, all together and field by field."""

    kind: Literal["fields"] = "fields"
    name: str = Field(default="fields", pattern=NAME, description="what the scores' names begin with")
    fields: tuple[str, ...] | None = Field(
        default=None,
        max_length=MOST_FIELDS,
        description="fields that are reported one by one, such as `customer.name`, lists left out of the "
        f"path; default: those of the references, where they are at most {MOST_FIELDS}",
    )
    text: Literal["exact", "normalized"] = Field(
        default="exact", description="how texts are compared; white space at their ends never counts"
    )
    tolerance: float = Field(default=0.0, ge=0, description="difference of two numbers that is let through")

    @property
    def scores(self) -> tuple[str, ...]:
        each = [f"{self.name}_{figure}[{field}]" for field in self.fields or () for figure in FIGURES]
        return (*(f"{self.name}_{figure}" for figure in FIGURES), *each)


FIGURES: tuple[Literal["f1", "precision", "recall"], ...] = ("f1", "precision", "recall")


class RougeMetric(StageConfig):
    """ROUGE-L: F1 of the longest common subsequence of words."""

    kind: Literal["rouge_l"] = "rouge_l"
    name: str = Field(default="rouge_l", pattern=NAME, description=_SCORE)

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class ChrfMetric(StageConfig):
    """chrF, 0 to 100: F-score of character n-grams, the mean over the items."""

    kind: Literal["chrf"] = "chrf"
    name: str = Field(default="chrf", pattern=NAME, description=_SCORE)
    word_order: int = Field(default=0, ge=0, le=2, description="2: chrF++, which counts words and pairs too")

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class BleuMetric(StageConfig):
    """BLEU, 0 to 100, of all items together, as sacrebleu computes it."""

    kind: Literal["bleu"] = "bleu"
    name: str = Field(default="bleu", pattern=NAME, description=_SCORE)
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = Field(
        default="13a", description="sacrebleu's tokenizer"
    )
    lowercase: bool = Field(default=False, description="ignore case")

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)


class LengthMetric(StageConfig):
    """How long the answer is; with bounds, also whether it keeps them."""

    kind: Literal["length"] = "length"
    name: str = Field(default="length", pattern=NAME, description=_SCORE)
    unit: Literal["words", "characters"] = Field(default="words", description="what is counted")
    at_least: int | None = Field(default=None, ge=0, description="shortest answer that keeps the bounds")
    at_most: int | None = Field(default=None, ge=0, description="longest answer that keeps the bounds")

    @model_validator(mode="after")
    def _possible(self) -> LengthMetric:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is more than at_most {self.at_most}")
        return self

    @property
    def bounded(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name, f"{self.name}_kept") if self.bounded else (self.name,)


class RefusalMetric(StageConfig):
    """Whether the answer refuses, by its words: a rule of thumb in English, and patterns that are added."""

    kind: Literal["refusal"] = "refusal"
    name: str = Field(default="refusal", pattern=NAME, description=_SCORE)
    patterns: tuple[str, ...] = Field(
        default=(), max_length=64, description="more patterns of a refusal, in the syntax of `regex`"
    )

    @model_validator(mode="after")
    def _compile(self) -> RefusalMetric:
        for pattern in self.patterns:
            linear_pattern(pattern)
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name, f"{self.name}_none")


class ToolCallMetric(StageConfig):
    """The calls of tools in the answer: all of them right, their names, and how many of their arguments."""

    kind: Literal["tool_call"] = "tool_call"
    name: str = Field(default="tool_call", pattern=NAME, description="what the scores' names begin with")
    text: Literal["exact", "normalized"] = Field(default="exact", description="as in `fields`, of arguments")
    tolerance: float = Field(default=0.0, ge=0, description="as in `fields`, of arguments")

    @property
    def scores(self) -> tuple[str, ...]:
        arguments = (f"{self.name}_arguments_{figure}" for figure in FIGURES)
        return (self.name, f"{self.name}_name", *arguments)


MetricConfig = Annotated[
    ExactMetric
    | NormalizedMetric
    | ContainsMetric
    | RegexMetric
    | NumberMetric
    | JsonMetric
    | JsonSchemaMetric
    | FieldsMetric
    | RougeMetric
    | ChrfMetric
    | BleuMetric
    | LengthMetric
    | RefusalMetric
    | ToolCallMetric
    | PythonMetric
    | EmbeddingMetric
    | JudgeMetric,
    Field(discriminator="kind"),
]
KINDS: tuple[str, ...] = tuple(
    variant.model_fields["kind"].default for variant in get_args(get_args(MetricConfig)[0])
)
DEFAULT: tuple[MetricConfig, ...] = (ExactMetric(),)


class _OrItsKind:
    """In an editor's schema: a metric with its defaults may be written as its kind alone."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        variants = handler(schema)
        return {"anyOf": [{"type": "string", "enum": list(KINDS)}, variants]}


def _written_out(metric: Any) -> Any:
    return {"kind": metric} if isinstance(metric, str) else metric


Metric = Annotated[MetricConfig, BeforeValidator(_written_out), _OrItsKind()]
"""A metric of a recipe: its kind, or a mapping with its kind and keys."""
