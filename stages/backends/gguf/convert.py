"""Hugging Face directory → GGUF: llama.cpp's converter in a child process, its quantizer in this one."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.cores import usable_threads
from stages.backends.gguf.converter import run_converter
from stages.backends.gguf.token_parity import compare_tokenizers
from stages.backends.tokenizer import linked
from stages.contract import progress
from stages.errors import InvalidInput, MissingPackage, StageError
from stages.formats import converter_source
from stages.formats.converter_source import ConverterSource
from stages.formats.gguf import GgufDescription, read_gguf
from stages.formats.gguf_types import EffectiveGguf, describe
from stages.formats.model_directory import ModelDirectory
from stages.formats.model_files import need_room

FILE = "model.gguf"
_UNQUANTIZED = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


class ConvertedGguf(EffectiveGguf):
    """The effective config of a file that was made here."""

    converted_as: str
    token_parity: dict[str, int]
    llama_cpp: dict[str, str]


def convert(folder: Path, file_type: str, name: str, out: Path) -> ConvertedGguf:
    """Write `out/model.gguf` of llama.cpp's `file_type`; returns what the file really holds.

    Effective config: `types` (tensor type → tensors), `bits_per_weight` (tensor bits per parameter),
    `file_bits_per_weight`, `fallbacks` (weight matrices that are not of the requested type), `architecture`,
    `pre_tokenizer`, `chat_template`, `token_parity`, `llama_cpp`. `name`: the model's name in the file.
    Raises `InvalidInput`, `MissingPackage` or `InsufficientResources`.
    """
    ftype = _llama_ftype(file_type)
    source = converter_source.find()
    model = ModelDirectory(folder)
    outtype = _UNQUANTIZED.get(file_type) or ("bf16" if "BF16" in model.dtypes else "f16")
    _need_room(model.parameters, file_type, out)
    scratch = out / ".convert"
    scratch.mkdir()
    try:
        progress(0, 3, "phases", phase="convert")
        converted = scratch / FILE
        _run_converter(folder, outtype, name, converted)
        progress(1, 3, "phases", phase="quantize")
        if file_type in _UNQUANTIZED:
            converted.rename(out / FILE)
        else:
            _quantize(converted, ftype, out / FILE)
    finally:
        shutil.rmtree(scratch)
    progress(2, 3, "phases", phase="inspect")
    description = read_gguf(out / FILE)
    if file_type == "F16" and model.dtypes != ["F16"]:
        require_finite(out / FILE, description)
    with _llama_log():
        parity = compare_tokenizers(folder, out / FILE)
    progress(3, 3, "phases", phase="done")
    return {
        **describe(description, file_type),
        "converted_as": outtype,
        "token_parity": parity,
        "llama_cpp": versions(source),
    }


def _llama_ftype(file_type: str) -> int:
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingPackage(
            f"llama-cpp-python cannot be imported ({error}); install it with: pip install llama-cpp-python"
        ) from error
    types = {
        name.rpartition("LLAMA_FTYPE_")[2].partition("_")[2]: value
        for name, value in vars(llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_") and isinstance(value, int)
    }
    if file_type not in types:
        raise InvalidInput(
            f"llama-cpp-python {llama_cpp.__version__} does not know the file type {file_type!r}; "
            f"its types: {', '.join(sorted(types))}"
        )
    return int(types[file_type])


def _need_room(parameters: int, file_type: str, out: Path) -> None:
    bits = int(re.sub(r"\D*(\d+).*", r"\1", file_type))
    if file_type in _UNQUANTIZED:
        need = parameters * bits / 8
    else:
        # 2 bits of headroom: mixes and fallback types lie above the type's own number
        need = parameters * 2 + parameters * (bits + 2) / 8
    need_room(out, int(need * 1.02) + 16_000_000, f"converting to GGUF {file_type}")


def _run_converter(model: Path, outtype: str, name: str, target: Path) -> None:
    """The directory's name ends up in the file, so the converter sees the model under `name`."""
    label = file_label(name)
    alias = target.parent / label
    linked(model, alias)
    run_converter(
        "convert_hf_to_gguf.py",
        [str(alias), "--outtype", outtype, "--outfile", str(target), "--model-name", label],
    )


def file_label(name: str) -> str:
    """`name` with nothing in it that a path or the converter would read otherwise."""
    return re.sub(r"[^\w.-]+", "-", name) or "model"


def _quantize(source: Path, ftype: int, target: Path) -> None:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.nthread = usable_threads()
    with _llama_log() as lines:
        failed = llama_cpp.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)
        )
    if failed:
        reason = next((line for line in reversed(lines) if line.strip()), "no message")
        raise StageError(f"llama.cpp could not quantize the model: {reason.strip()}")


@contextmanager
def _llama_log() -> Iterator[list[str]]:
    """Collect llama.cpp's own log, telling the progress that it reports per tensor."""
    import llama_cpp
    from llama_cpp._logger import llama_log_callback

    lines: list[str] = []

    def collect(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace")
        lines.append(line)
        if step := re.match(r"\[\s*(\d+)/\s*(\d+)\]", line):
            done, total = int(step[1]), int(step[2])
            if done % max(1, total // 20) == 0 or done == total:
                progress(done, total, "tensors")

    callback = llama_cpp.llama_log_callback(collect)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(llama_log_callback, ctypes.c_void_p(0))


def require_finite(file: Path, description: GgufDescription) -> None:
    """Raise `InvalidInput` for a weight beyond 65504, which F16 makes infinite; the answers would suffer."""
    import numpy as np

    halves = np.memmap(file, "<f2", "r", shape=(description.file_bytes // 2,))
    for tensor in description.tensors:
        values = halves[tensor.start // 2 : tensor.start // 2 + tensor.elements]
        if tensor.type == "F16" and not np.isfinite(values).all():
            raise InvalidInput(
                f"tensor {tensor.name} has weights beyond the range of float16 (±65504); use type: BF16"
            )


def versions(source: ConverterSource) -> dict[str, str]:
    """Runtime and converter, each with its commit."""
    import llama_cpp

    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_commit.restype = ctypes.c_char_p
    return {
        "runtime": llama_cpp.__version__,
        "runtime_commit": library.ggml_commit().decode(),
        "converter": source.version,
        "converter_commit": source.commit,
        "sdist_sha256": source.sdist_sha256,
    }
