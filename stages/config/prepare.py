"""What can be said about the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages.config.feed import feed_of
from stages.contract import StageConfig

TrainOn = Literal["all", "last", "weight"]
Format = Literal[
    "auto",
    "messages",
    "prompt-completion",
    "instruction",
    "sharegpt",
    "dialogue",
    "chatterbot-dialogue",
    "chatterbot-topic",
    "preferences",
    "unpaired-preferences",
    "text",
]


RATED = ("preferences", "unpaired-preferences")
"""Formats of answers that somebody judged."""


class SplitConfig(StageConfig):
    """What is held out; the rest is trained on."""

    validation: float = Field(default=0.05, ge=0, lt=1, description="share of the distinct prompts")
    test: float = Field(default=0.10, ge=0, lt=1, description="share of the distinct prompts")

    @model_validator(mode="after")
    def _something_left(self) -> SplitConfig:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test must leave at least a tenth of the prompts to train on")
        return self


_SCHEMES = (
    "expected path:FILE_OR_DIRECTORY, hub:ORG/NAME@REVISION, package:DISTRIBUTION/PATH"  # of other sources
)


class MixedSource(StageConfig):
    """A further source, whose rows are mixed with those of `prepare.source`."""

    source: str = Field(description="as `prepare.source`, but no feed")
    format: Format = Field(default="auto", description="shape of its rows, as `prepare.format`")
    columns: dict[str, str] = Field(default_factory=dict, description="as `prepare.columns`, of its rows")
    slices: tuple[str, ...] = Field(
        default=(),
        exclude_if=lambda names: not names,  # datasets from before keep their keys
        description="as `prepare.slices`, of its rows",
    )
    hub_config: str | None = Field(default=None, description="`hub:`: the dataset's configuration (subset)")
    hub_split: str = Field(default="train", description="`hub:`: the split that is read")
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of its rows that are read, drawn by `prepare.seed`; which rows these are depends "
        "on their place in the source alone",
    )
    max_rows: int | None = Field(default=None, ge=1, description="stop after this many accepted rows of it")

    @field_validator("source")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not _is_outside(value):
            raise ValueError(f"{value!r} is not a data source that can be mixed in; {_SCHEMES}")
        return value

    @model_validator(mode="after")
    def _columns_fit(self) -> MixedSource:
        _check_columns(self.columns, self.format)
        _check_slices(self.slices, self.columns, self.format)
        if self.format == "chatterbot-topic":
            raise ValueError("the format chatterbot-topic is for prepare.source only")
        return self


class PrepareConfig(StageConfig):
    """What to read and how to turn it into train, validation and test rows."""

    source: str = Field(
        description="`path:FILE_OR_DIRECTORY` (.jsonl .json .csv .parquet, for `format: text` also .txt .md; "
        "each also as .gz), `hub:ORG/NAME@REVISION` (a Hugging Face dataset), `package:DISTRIBUTION/PATH` "
        "(data shipped in an installed package; PATH may have wildcards), or `feed:NAME` (rows that grow; "
        "`feed:NAME@NUMBER` stops at that row)"
    )
    format: Format = Field(
        default="auto",
        description="shape of a row; `auto` detects it from the first rows. `preferences`: two answers to "
        "each prompt, `chosen` and `rejected`, for `train.method: dpo`; `unpaired-preferences`: chats in any "
        "of the other shapes with a `label` (or `kto_tag`), true or false, for `train.method: kto`; `text`: "
        "documents, learned whole, for continued pretraining, cut into pieces where longer than `max_length`",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda names: not names,  # datasets from before keep their keys
        description="names that the data have for a row's fields: `{ticket: prompt, reply: completion}` "
        "reads the column `ticket` as the prompt",
    )
    slices: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        exclude_if=lambda names: not names,  # datasets from before keep their keys
        description="columns of the data, such as `topic` or `customer`, whose values are kept beside each "
        "row: a gate's `slice: topic=billing` takes the items that have it",
    )
    mix: tuple[MixedSource, ...] = Field(
        default=(),
        exclude_if=lambda sources: not sources,  # datasets from before keep their keys
        description="further sources, read after this one; duplicates, splits and limits are those of all "
        "rows together",
    )
    topics: tuple[str, ...] | None = Field(
        default=None, description="`chatterbot-topic`: only these topics (file names without .yml)"
    )
    hub_config: str | None = Field(default=None, description="`hub:`: the dataset's configuration (subset)")
    hub_split: str = Field(default="train", description="`hub:`: the split that is read")
    licence: str | None = Field(default=None, description="for the data card; default: as the source states")
    system: str | None = Field(default=None, description="system message put before rows that have none")
    train_on: TrainOn = Field(
        default="all",
        exclude_if=lambda answers: answers == "all",  # datasets from before keep their keys
        description="the answers of a chat that are learned: `all`; the `last` one, the others being read "
        "only; or by the `weight` of each message, 0 or 1 (1 where it has none)",
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="shares held out")
    max_length: int = Field(default=1024, ge=8, description="tokens; longer rows are counted and rejected")
    max_rows: int | None = Field(default=None, ge=1, description="stop after this many accepted rows")
    max_rejected: float = Field(
        default=0.05, ge=0, le=1, description="share of rejected rows above which the run fails"
    )
    near_duplicates: float | None = Field(
        default=0.85,
        gt=0,
        le=1,
        description="Jaccard similarity (word 3-grams that fewer than five rows share, found by MinHash) of "
        "both the questions and the answers from which two rows are one; null keeps all but exact duplicates",
    )
    max_deduplicated: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the good rows, removed as exact or near duplicates, above which the run fails",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the split")

    @property
    def sources(self) -> tuple[PrepareConfig, ...]:
        """The settings of each source, as if it were the only one."""
        first = self.model_copy(update={"mix": ()})
        others = [dict(mixed) for mixed in self.mix]
        for other in others:
            other.pop("share")
        return first, *(first.model_copy(update={"topics": None, "licence": None, **o}) for o in others)

    @field_validator("source")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not _is_outside(value) and feed_of(value) is None:
            raise ValueError(f"{value!r} is not a data source; {_SCHEMES}, feed:NAME or feed:NAME@NUMBER")
        return value

    @model_validator(mode="after")
    def _columns_name_each_field_once(self) -> PrepareConfig:
        _check_columns(self.columns, self.format)
        _check_slices(self.slices, self.columns, self.format)
        if self.slices and feed_of(self.source) is not None:
            raise ValueError("slices names columns, and a row of a feed has none beside its messages")
        return self

    @model_validator(mode="after")
    def _mixed_sources_are_all_there(self) -> PrepareConfig:
        if self.mix and feed_of(self.source) is not None:
            raise ValueError(
                "mix goes with sources that do not grow: export the feed to a file (`tuneline feed export`), "
                "and read that (path:FILE)"
            )
        kinds = {one if one in RATED else "" for one in (self.format, *(m.format for m in self.mix))}
        if len(kinds) > 1:
            raise ValueError(
                "mix: sources with pairs (format preferences), with labels (unpaired-preferences) and with "
                "answers do not mix"
            )
        return self

    @model_validator(mode="after")
    def _pairs_are_in_files(self) -> PrepareConfig:
        if self.format in RATED and feed_of(self.source) is not None:
            raise ValueError(
                f"format {self.format} is not read from a feed: write its pairs to a file with `tuneline "
                "feed export NAME FILE --preferences`, and read that (path:FILE, format preferences)"
            )
        return self

    @model_validator(mode="after")
    def _documents_are_no_chats(self) -> PrepareConfig:
        formats = [self.format, *(mixed.format for mixed in self.mix)]
        if "text" in formats and feed_of(self.source) is not None:
            raise ValueError(
                "format text is not read from a feed, whose rows are chats: read a file (path:FILE)"
            )
        if set(formats) == {"text"}:
            if self.system is not None:
                raise ValueError("system belongs to chats, and format text reads documents: take system out")
            if self.train_on != "all":
                raise ValueError(
                    f"train_on is {self.train_on}, and documents (format text) are learned whole: take it out"
                )
        return self

    @model_validator(mode="after")
    def _topics_need_their_format(self) -> PrepareConfig:
        if self.topics is not None and self.format != "chatterbot-topic":
            raise ValueError(f"topics belongs to the format chatterbot-topic, not to {self.format}")
        return self


def _is_outside(source: str) -> bool:
    """Whether it names files, a package or a repository."""
    scheme, _, rest = source.partition(":")
    return scheme in {"path", "hub", "package"} and bool(rest)


def _check_columns(columns: dict[str, str], format: Format) -> None:
    fields = list(columns.values())
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"columns names two columns for the field {twice[0]!r}; a field has one")
    if columns and format.startswith("chatterbot"):
        raise ValueError(f"columns has nothing to name in the format {format}: a corpus has no columns")


def _check_slices(slices: tuple[str, ...], columns: dict[str, str], format: Format) -> None:
    if twice := [name for name in slices if slices.count(name) > 1]:
        raise ValueError(f"slices names {twice[0]!r} twice")
    if renamed := [name for name in slices if name in columns]:
        raise ValueError(
            f"slices and columns both name {renamed[0]!r}, and columns reads it as a row's field"
        )
    if wrong := [name for name in slices if not name or "=" in name]:
        raise ValueError(f"slices: a rule could not name {wrong[0]!r} in FIELD=VALUE; rename the column")
    if slices and format.startswith("chatterbot"):
        raise ValueError(f"slices has nothing to name in the format {format}: a corpus has no columns")
