"""Tokenizers as their files say: whose is read, and that a library reads nothing else into it."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from stages.errors import InvalidInput

Tokenizer = Any
"""A fast Hugging Face tokenizer; transformers' own class hierarchy is not ours to name."""

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCABULARIES = (FILE, "tokenizer.model", "vocab.json")
"""A directory that holds one of these files brings a tokenizer."""
PLAIN_CLASS = "PreTrainedTokenizerFast"
"""Reads tokenizer.json and adds nothing to it; transformers 4 and 5 both know this name."""

PROBE = (
    "Hello  world!   It's 3.14 % of 1234567, isn't it?\n\n\n    def f(x):\n\t\treturn x**2  # café naïve\n"
    "日本語のテスト 中文字符 한국어 हिन्दी বাংলা ไทย العربية עברית Ελληνικά Русский язык Straße\n"
    "🙂👩‍👩‍👧 \u200b\u00a0— “quoted”\r\n"
    " leading, THEY'RE 've 'll   \t trailing   \u2581 "
)
"""Where readings part: runs of spaces, line ends, digits, contractions, code, many scripts, emoji."""


def without_torch() -> None:
    """Import what reads tokenizers, without torch: what computes nothing starts in a third of the time.

    Does nothing where transformers or torch is there already.
    """
    if sys.modules.keys() & {"torch", "transformers"}:
        return
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that models cannot be had
    cast(Any, sys.modules)["torch"] = None
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401
    finally:
        del sys.modules["torch"]


@contextmanager
def quickly() -> Iterator[None]:
    """Within it transformers, and what is built on it, is imported in 2.8 s in place of 4.9.

    Imports make no garbage, and looking for some takes a quarter of their time; and transformers imports
    scikit-learn, for assisted generation alone, which takes half as long as torch.
    """
    modules = cast(Any, sys.modules)
    absent = "sklearn" not in modules
    gc.disable()
    if absent:
        modules["sklearn"] = None
    try:
        yield
    finally:
        if absent:
            del modules["sklearn"]  # a task of lm-eval may need it
        gc.enable()


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer in a Hugging Face directory; nothing is fetched and no code from there is run.

    Its ids are those of tokenizer.json alone, whatever class tokenizer_config.json names: transformers 5 puts
    a named class's own way of cutting text in place of the file's.
    Raises `InvalidInput` when the directory holds none that can be read like this.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    named = _read(AutoTokenizer, path)
    if reads_as_its_file(named, Path(path)):
        return named
    plain = _read(PreTrainedTokenizerFast, path)
    if reads_as_its_file(plain, Path(path)):
        return plain
    raise InvalidInput(
        f"{path}: transformers reads the tokenizer as other token ids than its {FILE} says, so a model would "
        f"be asked with other tokens than it knows; set tokenizer_class to {PLAIN_CLASS} in {SETTINGS}, and "
        "remove from there what changes how text is cut"
    )


def reads_as_its_file(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether `tokenizer` makes the ids of `folder`'s tokenizer.json; true where there is no such file."""
    file = folder / FILE
    if not file.is_file():
        return True
    from tokenizers import Tokenizer as FileTokenizer

    with _readable(folder):
        alone = FileTokenizer.from_file(str(file))
        alone.no_truncation()
        alone.no_padding()
        expected = alone.encode(PROBE, add_special_tokens=False).ids
        return bool(tokenizer(PROBE, add_special_tokens=False, verbose=False)["input_ids"] == expected)


def require_plain_reading(folder: Path) -> None:
    """Name another class in `folder`'s settings where the named one reads the file otherwise, or not at all.

    For directories of our own that others will read too: engines, converters, transformers elsewhere.
    Raises `InvalidInput` as `load_tokenizer`.
    """
    settings = folder / SETTINGS
    if not settings.is_file() or not (folder / FILE).is_file() or _is_read_rightly(folder):
        return
    values = json.loads(settings.read_text("utf-8"))
    values["tokenizer_class"] = PLAIN_CLASS
    settings.unlink()  # it may be a link to somebody else's
    settings.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    load_tokenizer(folder)


def _is_read_rightly(folder: Path) -> bool:
    from transformers import AutoTokenizer

    try:
        return reads_as_its_file(_read(AutoTokenizer, folder), folder)
    except InvalidInput:
        return False


def linked(folder: Path, alias: Path) -> None:
    """Make `alias` show the files of `folder`, with settings by which every library reads tokenizer.json."""
    alias.mkdir()
    for file in folder.iterdir():
        (alias / file.name).symlink_to(file.resolve())
    require_plain_reading(alias)


def tokenizer_home(base: Path, adapter: Path | None) -> Path:
    """The directory whose tokenizer and chat template belong to a base with an adapter on it, merged or not.

    That is the adapter's where it brings a tokenizer: it was trained with that one.
    """
    own = adapter is not None and any((adapter / name).is_file() for name in VOCABULARIES)
    return adapter if adapter is not None and own else base


def _read(reader: Any, path: Path | str) -> Tokenizer:
    with _readable(path):
        return reader.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    """Turn whatever the libraries raise over these files into `InvalidInput`.

    transformers raises OSError, ValueError, KeyError and bare Exception, and tokenizers' panics are none.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidInput(
            f"{path}: no tokenizer could be read ({first}); expected tokenizer.json and "
            "tokenizer_config.json beside the weights: save them with tokenizer.save_pretrained(...)"
        ) from error
