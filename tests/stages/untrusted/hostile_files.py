"""Files as strangers bring them, byte by byte: good ones, and the ways in which they can be bad."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, RANK = 8, 2


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], **header: Any) -> bytes:
    """A well-formed file; `header` entries are added to its header, or put in the place of others."""
    entries: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return framed(json.dumps({**entries, **header}).encode(), data)


def framed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def floats(count: int, value: float = 0.5) -> bytes:
    return struct.pack(f"<{count}f", *[value] * count)


def factors(value: float = 0.5) -> dict[str, tuple[str, list[int], bytes]]:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    return {
        f"{name}.lora_A.weight": ("F32", [RANK, HIDDEN], floats(RANK * HIDDEN, value)),
        f"{name}.lora_B.weight": ("F32", [HIDDEN, RANK], floats(HIDDEN * RANK)),
    }


def adapter(folder: Path, weights: bytes | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"], "revision": None,
        "base_model_name_or_path": "acme/tiny", **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(weights or safetensors(factors()))
    return folder


def model(folder: Path, weights: bytes | None = None, **config: Any) -> Path:
    folder.mkdir()
    settings = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    held = {"model.embed_tokens.weight": ("F32", [4, HIDDEN], floats(4 * HIDDEN))}
    (folder / "model.safetensors").write_bytes(weights or safetensors(held))
    return folder


def with_tokenizer(folder: Path, tokenizer: str = "", template: str | None = None, **settings: Any) -> Path:
    known = json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": []})
    (folder / "tokenizer.json").write_text(tokenizer or known)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, **settings}))
    return folder


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def gguf(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    counts: tuple[int, int] | None = None,
) -> bytes:
    if pairs is None:
        tokens = struct.pack("<IQ", 8, 2) + text("a") + text("b")
        pairs = [
            pair("general.architecture", 8, text("llama")),
            pair("llama.block_count", 4, struct.pack("<I", 1)),
            pair("tokenizer.ggml.tokens", 9, tokens),
        ]
    tensors = [tensor()] if tensors is None else tensors
    data = data or floats(16)
    number, known = counts or (len(tensors), len(pairs))
    head = struct.pack("<4sIQQ", b"GGUF", 3, number, known) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def tensor(
    name: str = "token_embd.weight", shape: tuple[int, ...] = (8, 2), kind: int = 0, offset: int = 0
) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _nan_in(folder: Path) -> Path:
    return adapter(folder, safetensors(factors(float("nan"))))


def _header(folder: Path, header: bytes, data: bytes = b"") -> Path:
    return adapter(folder, framed(header, data))


def _entry(**changes: Any) -> bytes:
    return json.dumps({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


def _file(folder: Path, raw: bytes) -> Path:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(raw)
    return folder / "model.gguf"


def _only(folder: Path, name: str, raw: bytes) -> Path:
    adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(raw)
    return folder


def _linked(folder: Path) -> Path:
    adapter(folder)
    (folder / "tokenizer.json").symlink_to("/etc/passwd")
    return folder


def _fifo(folder: Path) -> Path:
    import os

    adapter(folder)
    os.mkfifo(folder / "tokenizer_config.json")
    return folder


def _sharded(folder: Path, weight_map: Any) -> Path:
    model(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _quantized(folder: Path, **settings: Any) -> Path:
    return model(
        folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32, **settings}
    )


def _written(folder: Path, name: str, content: str) -> Path:
    (model(folder) / name).write_text(content)
    return folder


def _two_settings(folder: Path) -> Path:
    _quantized(folder)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 8, "group_size": 32}))
    return folder


_TWO = {"a": ("F32", [2], floats(2)), "b": ("F32", [2], floats(2))}
_OVERLAP = {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}
_HOLE = {"b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}
_BOMB = '{"model": {"vocab": ' + "[" * 5000 + "]" * 5000 + "}}"
_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_HUGE_ARRAY = (
    struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<I", 9) + struct.pack("<I", 0)
)
_LLAMA = pair("general.architecture", 8, text("llama"))
_NESTED_ARRAY = pair("a", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 9, 1) + bytes(100))

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "only pickled weights": (lambda f: _only(f, "adapter_model.bin", b"\x80\x04K."), "pickled weights"),
    "a checkpoint of torch": (lambda f: _only(f, "adapter_model.pt", b"PK\x03\x04"), "pickled weights"),
    "a pickle with another name": (lambda f: adapter(f, b"\x80\x04\x95" + bytes(40)), "is a pickle"),
    "a zip with another name": (lambda f: adapter(f, b"PK\x03\x04" + bytes(40)), "is a zip archive"),
    "a pointer instead of the file": (
        lambda f: adapter(f, b"version https://git-lfs.github.com/spec/v1\n" + bytes(40)), "Git LFS"
    ),
    "an empty weights file": (lambda f: adapter(f, b"\0"), "not a complete safetensors file"),
    "a header longer than the file": (
        lambda f: adapter(f, struct.pack("<Q", 1 << 40) + b"{}"), "not a complete safetensors file"
    ),
    "a huge header": (
        lambda f: adapter(f, struct.pack("<Q", 40_000_000) + b" " * 40_000_000), "header of 40000000 bytes"
    ),
    "a header that is no JSON": (lambda f: _header(f, b"{'a': 1}"), "not valid JSON"),
    "a header that is a list": (lambda f: _header(f, b"[1]"), "expected a JSON object"),
    "a header nested deeply": (lambda f: _header(f, b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"), "64 levels"),
    "a header nested very deeply": (
        lambda f: _header(f, b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "64 levels"
    ),
    "a tensor described twice": (
        lambda f: _header(f, _entry()[:-1] + b"," + _entry()[1:], floats(2)), "duplicate key"
    ),
    "metadata that are no texts": (
        lambda f: adapter(f, safetensors(factors(), __metadata__={"a": 1})), "not a table of texts"
    ),
    "overlapping tensors": (lambda f: adapter(f, safetensors(_TWO, **_OVERLAP)), "overlaps tensor 'a'"),
    "a hole between tensors": (
        lambda f: adapter(f, safetensors(_TWO, **_HOLE) + bytes(4)), "leaves a hole of 4 bytes"
    ),
    "bytes that belong to no tensor": (
        lambda f: adapter(f, safetensors(_TWO) + b"hidden"), "bytes that belong to no tensor"
    ),
    "a file that was cut": (lambda f: adapter(f, safetensors(factors())[:-1]), "cut short"),
    "negative offsets": (lambda f: _header(f, _entry(data_offsets=[-8, 0])), "not negative"),
    "offsets backwards": (lambda f: _header(f, _entry(data_offsets=[8, 0]), floats(2)), "offsets hold -8"),
    "offsets that are no numbers": (lambda f: _header(f, _entry(data_offsets=[0, 8.0])), "whole numbers"),
    "a dtype that is too narrow": (lambda f: _header(f, _entry(dtype="F16"), floats(2)), "takes 4 bytes"),
    "a dtype that is no name": (lambda f: _header(f, _entry(dtype=["F32"]), floats(2)), "has dtype ['F32']"),
    "a dtype that nobody knows": (lambda f: _header(f, _entry(dtype="F3"), floats(2)), "has dtype 'F3'"),
    "a shape beyond all memory": (
        lambda f: _header(f, _entry(shape=[1 << 60, 1 << 60]), floats(2)), "its offsets hold 8"
    ),
    "more keys than a tensor has": (lambda f: _header(f, _entry(code="x"), floats(2)), "is described by"),
    "a number with a million digits": (
        lambda f: _header(f, b'{"t": ' + b"9" * 1_000_000 + b"}"), "not valid JSON"
    ),
    "NaN in a tensor": (_nan_in, "holds NaN or infinite values"),
    "infinity in a tensor": (
        lambda f: adapter(f, safetensors(factors(float("inf")))), "holds NaN or infinite values"
    ),
    "NaN in half precision": (
        lambda f: model(f, safetensors({"t": ("F16", [1], b"\x00\x7e")})), "holds NaN or infinite values"
    ),
    "infinity in bfloat16": (
        lambda f: model(f, safetensors({"t": ("BF16", [1], b"\x80\xff")})), "holds NaN or infinite values"
    ),
    "half a pair of factors": (
        lambda f: adapter(f, safetensors(dict(list(factors().items())[:1]))), "incomplete or damaged"
    ),
    "another rank than the config's": (lambda f: adapter(f, r=4), "factors of rank 2"),
    "a rank of zero": (lambda f: adapter(f, r=0), "expected a number above 0"),
    "a rank that is no number": (lambda f: adapter(f, r="2"), "expected a number above 0"),
    "another method than LoRA": (lambda f: adapter(f, peft_type="IA3"), "only LoRA"),
    "code in a model's config": (
        lambda f: model(f, auto_map={"AutoModel": "evil.Model"}), "Python code of its own"
    ),
    "code in a tokenizer's config": (
        lambda f: with_tokenizer(model(f), auto_map={"AutoTokenizer": ["evil.T"]}), "code of its own"
    ),
    "trust_remote_code": (lambda f: model(f, trust_remote_code=True), "Python code of its own"),
    "a number beyond all numbers": (
        lambda f: _written(f, "config.json", '{"architectures": ["A"], "b": 1e999}'), "not valid JSON"
    ),
    "NaN in a config": (lambda f: model(f, rope_theta=float("nan")), "not valid JSON"),
    "no architecture": (lambda f: model(f, architectures=[]), "names no architecture"),
    "an index that names a path": (
        lambda f: _sharded(f, {"model.embed_tokens.weight": "../../etc/passwd"}), "not there"
    ),
    "an index that names another tensor": (
        lambda f: _sharded(f, {"x": "model-00001-of-00001.safetensors"}), "where it is not"
    ),
    "an index without a map": (lambda f: _sharded(f, ["a"]), "holds no weight_map"),
    "another quantization": (lambda f: _quantized(f, quant_method="awq"), "expected GPTQ"),
    "GPTQ without its bits": (lambda f: _quantized(f, bits=None), "name no bits"),
    "GPTQ of no bits": (lambda f: _quantized(f, bits=0), "name no bits"),
    "GPTQ in groups of nothing": (lambda f: _quantized(f, group_size=0), "name no group_size"),
    "two settings that differ": (_two_settings, "one of them is stale"),
    "a tokenizer nested deeply": (lambda f: with_tokenizer(model(f), _BOMB), "64 levels"),
    "a tokenizer of 65 MB": (
        lambda f: with_tokenizer(model(f), '{"a": "' + "x" * 65_000_000 + '"}'), "at most 64 MB"
    ),
    "a template with half a character": (
        lambda f: with_tokenizer(model(f), template="\ud800x"), "half a character"
    ),
    "a template that never ends": (lambda f: with_tokenizer(model(f), template=_LOOP), "more than 3 s"),
    "a template that writes gigabytes": (
        lambda f: with_tokenizer(model(f), template="{{ 'a' * 4000000000 }}"), "hostile"
    ),
    "a template that reaches for Python": (
        lambda f: with_tokenizer(model(f), template=_ESCAPE), "what is not allowed in one"
    ),
    "a link to elsewhere": (_linked, "link to somewhere else"),
    "a FIFO": (_fifo, "not a regular file"),
    "no model at all": (lambda f: _only(f, "x", b"") if f.mkdir() else f, "not a model of a known form"),
    "43 bytes that announce 2^63 elements": (
        lambda f: _file(f, (_HUGE_ARRAY + struct.pack("<Q", 1 << 63))[:43].ljust(43, b"\0")), "announces"
    ),
    "arrays in arrays": (lambda f: _file(f, gguf(pairs=[_NESTED_ARRAY])), "array of type 9"),
    "more metadata than bytes": (lambda f: _file(f, gguf(counts=(1, 1 << 40))), "announces"),
    "more tensors than bytes": (lambda f: _file(f, gguf(counts=(1 << 40, 3))), "announces"),
    "a text longer than the file": (
        lambda f: _file(f, gguf(pairs=[struct.pack("<Q", 1 << 62) + bytes(40)])), "announces"
    ),
    "an unknown kind of metadata": (lambda f: _file(f, gguf(pairs=[pair("a", 99, bytes(16))])), "type 99"),
    "a tensor beyond the file": (
        lambda f: _file(f, gguf(tensors=[tensor(offset=1 << 63)])), "cut short"
    ),
    "a negative offset": (lambda f: _file(f, gguf(tensors=[tensor(offset=(1 << 64) - 32)])), "cut short"),
    "a tensor of absurd size": (
        lambda f: _file(f, gguf(tensors=[tensor(shape=(1 << 60, 1 << 60))])), "cut short"
    ),
    "a tensor of 2^31 dimensions": (
        lambda f: _file(f, gguf(tensors=[text("t") + struct.pack("<I", 1 << 31) + bytes(64)])), "dimensions"
    ),
    "an unknown type of tensor": (lambda f: _file(f, gguf(tensors=[tensor(kind=77)])), "unknown type 77"),
    "overlapping tensors in a GGUF": (
        lambda f: _file(f, gguf(tensors=[tensor(), tensor("b", offset=32)], data=floats(32))), "overlaps"
    ),
    "metadata twice": (
        lambda f: _file(f, gguf(pairs=[pair("a", 8, text("b")), pair("a", 8, text("c"))])), "duplicate"
    ),
    "a GGUF that was cut": (lambda f: _file(f, gguf()[:-1]), "cut short"),
    "a GGUF without tensors": (lambda f: _file(f, gguf(tensors=[])), "does not describe a model"),
    "a GGUF without a vocabulary": (
        lambda f: _file(f, gguf(pairs=[pair("general.architecture", 8, text("llama"))])), "no vocabulary"
    ),
    "a GGUF that is neither a model nor an adapter": (
        lambda f: _file(
            f, gguf(pairs=[_LLAMA, pair("general.type", 8, text("imatrix"))])
        ), "expected a language model"
    ),
    "an adapter in a GGUF without LoRA factors": (
        lambda f: _file(
            f, gguf(pairs=[_LLAMA, pair("general.type", 8, text("adapter")),
                           pair("adapter.type", 8, text("lora"))])
        ), "no whole pairs of LoRA factors"
    ),
    "NaN in a GGUF": (lambda f: _file(f, gguf(data=floats(16, float("nan")))), "holds NaN or infinite"),
    "an infinite scale in a GGUF": (
        lambda f: _file(f, gguf(tensors=[tensor(shape=(32, 1), kind=8)], data=b"\x00\x7c" + bytes(32))),
        "holds NaN or infinite values",
    ),
    "a template in a GGUF": (
        lambda f: _file(f, gguf(pairs=[
            pair("general.architecture", 8, text("llama")),
            pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 1) + text("a")),
            pair("tokenizer.chat_template", 8, text(_ESCAPE)),
        ])), "what is not allowed in one",
    ),
}  # fmt: skip
"""What is wrong → how to make it in a new folder, and words of its refusal."""
