"""PEFT LoRA adapter → GGUF, by llama.cpp's own converter of the runtime's commit, in a child process.

llama.cpp adds `alpha / rank · B·A` to linear layers and nothing else. What an adapter has beyond that would
be left out, or scaled wrongly, without a word: it is refused by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from registry.compat.peft import CONFIG
from registry.compat.shapes import is_end
from stages.backends.gguf.convert import FILE, file_label, require_finite, versions
from stages.backends.gguf.converter import run_converter
from stages.backends.merge.adapter import Adapter, read_adapter
from stages.backends.tokenizer import SETTINGS, tokenizer_home
from stages.errors import InvalidInput, StageError
from stages.formats import converter_source
from stages.formats.gguf import read_gguf
from stages.formats.gguf_types import StoredGguf, stored
from stages.formats.model_files import need_room
from stages.untrusted.tokenizer import compare, template_of, vocabulary

TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}
"""llama.cpp's names of the file types that its adapter converter writes, and the converter's own."""

_ADVICE = "merge the adapter instead (`tuneline merge` accounts for all of it), and serve the merged GGUF"


class ConvertedAdapter(StoredGguf):
    """The effective config of an adapter's file; `pairs` of factors, scaled by `alpha`."""

    content: Literal["lora"]
    alpha: object
    pairs: int
    llama_cpp: dict[str, str]


def convert_adapter(adapter: Path, base: Path, file_type: str, name: str, out: Path) -> ConvertedAdapter:
    """Write `out/model.gguf` with the LoRA factors of `adapter`; returns what the file really holds.

    Of `base` only the configuration is read. `name`: the adapter's name in the file.
    Raises `InvalidInput` for a file type or an adapter that llama.cpp cannot have, `MissingPackage`,
    `InsufficientResources`.
    """
    if file_type not in TYPES:
        raise InvalidInput(
            f"type: {file_type} is not for adapters, whose factors are small and sensitive; "
            f"expected one of {', '.join(TYPES)} (F16 keeps what training wrote but for rounding)"
        )
    if not (base / "config.json").is_file():
        raise InvalidInput(f"{base} has no config.json; expected the directory of the adapter's base model")
    lora = read_adapter(adapter)
    require_plain_lora(lora)
    require_read_as(base, adapter)
    source = converter_source.find()
    need_room(out, 2 * sum(f.stat().st_size for f in adapter.glob("*.safetensors")), "converting the adapter")
    scratch = out / ".convert"
    scratch.mkdir()
    try:
        # the directories' names may end up in the file
        for label, folder in (("base", base), (file_label(name), adapter)):
            (scratch / label).symlink_to(folder.resolve(), target_is_directory=True)
        inputs = [str(scratch / file_label(name)), "--base", str(scratch / "base")]
        output = ["--outtype", TYPES[file_type], "--outfile", str(out / FILE)]
        run_converter("convert_lora_to_gguf.py", [*inputs, *output])
    finally:
        shutil.rmtree(scratch)
    description = read_gguf(out / FILE)
    if file_type == "F16":
        require_finite(out / FILE, description)
    pairs = len(lora.changes)
    if len(description.tensors) != 2 * pairs:
        raise StageError(
            f"llama.cpp's converter wrote {len(description.tensors)} tensors for {pairs} pairs of factors; "
            "expected two for each: report this"
        )
    return {
        **stored(description, file_type),
        "content": "lora",
        "alpha": description.values.get("adapter.lora.alpha"),
        "pairs": pairs,
        "llama_cpp": versions(source),
    }


def require_plain_lora(adapter: Adapter) -> None:
    """Raise `InvalidInput` naming the first thing that llama.cpp cannot apply exactly."""
    for key in ("use_dora", "use_rslora", "alpha_pattern", "lora_bias", "fan_in_fan_out"):
        if adapter.config.get(key):
            raise InvalidInput(
                f"{adapter.directory / CONFIG} sets {key} = {adapter.config[key]!r}, which "
                f"llama.cpp does not apply; {_ADVICE}"
            )
    for name, change in adapter.changes.items():
        end = is_end(name)
        if end or change.replacement or change.bias or set(change.parts) != {"lora_A", "lora_B"}:
            what = "changes the embedding or the output head" if end else "is not a pair of LoRA factors"
            raise InvalidInput(
                f"adapter tensor {change.tensors()[0]} {what}; llama.cpp takes pairs on linear layers "
                f"only: {_ADVICE}"
            )


def require_read_as(base: Path, adapter: Path) -> None:
    """Raise `InvalidInput` where the tokenizer or the chat template beside `adapter` is not that of `base`.

    A GGUF adapter has neither, so an engine would read with the base's what was trained with others.
    """
    if tokenizer_home(base, adapter) == base or tokenizer_home(adapter, base) == adapter:
        return  # one of them brings none
    expected, own = vocabulary(base), vocabulary(adapter)
    if expected is not None and own is not None and expected != own:
        counts = compare(expected, own)
        other = counts["other"] + counts["missing"]
        raise InvalidInput(
            f"the tokenizer beside {adapter} is not its base's: {counts['added']} tokens are added, {other} "
            f"differ; a GGUF adapter is read with the base's: {_ADVICE}"
        )
    if _template(adapter) != _template(base):
        raise InvalidInput(
            f"the chat template beside {adapter} is not its base's, and a GGUF adapter is rendered with the "
            "base's: resolve the base with that template (base.chat_template) and give it, or remove the "
            "tokenizer from the adapter's directory if it was trained with the base's"
        )


def _template(folder: Path) -> str | None:
    settings = folder / SETTINGS
    return template_of(folder, json.loads(settings.read_text("utf-8")) if settings.is_file() else {})
