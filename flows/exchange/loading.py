"""How each kind of model is loaded, as commands that a reader can copy from a model card."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from textwrap import dedent

from flows.exchange.dossier import Dossier, place
from flows.formatting import short
from registry.artifacts import Manifest, QuantSpec
from registry.compat.shapes import adapter_outline
from stages.backends.tokenizer import VOCABULARIES
from stages.quantization import method_that_made
from stages.quantization.snippets import ANSWER, Exported, Snippet

_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def snippets(dossier: Dossier) -> list[Snippet]:
    """Ways to load the exported directory, whose path the reader fills in. The first is what was tested."""
    if (method := method_that_made(dossier.manifest.quant)) is not None:
        return method.snippets(_exported(dossier))
    return _adapter(dossier) if dossier.manifest.kind == "adapter" else _whole(dossier)


def _exported(dossier: Dossier) -> Exported:
    tokenizer, base = _tokenizer(dossier)
    return Exported(
        files=tuple(place(name, dossier.is_model) for name in dossier.manifest.files),
        is_adapter=dossier.manifest.kind == "adapter",
        messages=_messages(dossier),
        base=base,
        tokenizer=tokenizer,
    )


def hub_name(source: str) -> str | None:
    """`ORG/NAME` of a source on the Hugging Face hub, None for any other."""
    scheme, _, rest = source.partition(":")
    name = rest.partition("@")[0]
    return name if scheme == "hub" and _HUB_NAME.fullmatch(name) else None


def rank_of(manifest: Manifest) -> int | None:
    """An adapter's rank (the largest of any module), where its manifest has it."""
    outline = adapter_outline(manifest.metrics)
    if outline is not None:
        return outline.rank
    rank = manifest.config.get("lora", {}).get("rank")
    return rank if isinstance(rank, int) else None


def _messages(dossier: Dossier) -> str:
    """A chat to try, with the system message that the model was trained with, where it had one."""
    datasets = dossier.related("trained_on").values()
    system = next((d.config["system"] for d in datasets if d.config.get("system")), None)
    turns = [{"role": "system", "content": system}] if system else []
    return json.dumps([*turns, {"role": "user", "content": "Hello!"}], ensure_ascii=False)


def _base_lines(dossier: Dossier) -> tuple[str, str, str]:
    """How to name the base: in Python, as further arguments in Python, on a command line."""
    name, revision = hub_name(dossier.base.source), dossier.base.revision
    if name is not None:
        pinned = f", revision={json.dumps(revision)}"
        return f'base = "{name}"', pinned, f"{name} --revision {shlex.quote(revision)}"
    ids = [i for i, m in dossier.ancestors().items() if m.kind == "base"]
    where = f"  # tuneline artifacts export {short(ids[0])} path/to/the/base" if ids else ""
    return f'base = "path/to/the/base"{where}', "", "path/to/the/base"


def _tokenizer(dossier: Dossier) -> tuple[str, str]:
    """How the tokenizer is loaded, and the line that names the base, where the directory lacks part of it.

    Whose it is follows the stages' rule (`tokenizer_home`): the directory's own where it brings one.
    """
    base, revision, _ = _base_lines(dossier)
    of_base = f"AutoTokenizer.from_pretrained(base{revision})"
    if not any(name in dossier.manifest.files for name in VOCABULARIES):
        return f"tokenizer = {of_base}  # the directory holds none\n", f"{base}\n"
    line = "tokenizer = AutoTokenizer.from_pretrained(directory)\n"
    quant = dossier.manifest.quant
    template = quant.effective.get("chat_template") if quant is not None else None
    if isinstance(template, Mapping) and not template.get("present", True):
        borrowed = f"tokenizer.chat_template = {of_base}.chat_template  # the directory holds none\n"
        return line + borrowed, f"{base}\n"
    return line, ""


def _adapter(dossier: Dossier) -> list[Snippet]:
    base, revision, served = _base_lines(dossier)
    quant = dossier.manifest.quant if dossier.manifest.quant and dossier.manifest.quant.is_nf4 else None
    python = dedent(f"""\
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer{", BitsAndBytesConfig" if quant else ""}

        directory = "path/to/this/directory"
        {base}
        """)
    if quant:
        python = "import torch\n" + python
        python += _in_nf4(revision, quant)
    else:
        python += f'model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype="auto")\n'
    python += "model = PeftModel.from_pretrained(model, directory).eval()\n"
    python += f"{_tokenizer(dossier)[0]}messages = {_messages(dossier)}\n"
    rank = rank_of(dossier.manifest)
    limit = f" --max-lora-rank {max(8, 1 << (rank - 1).bit_length())}" if rank else ""
    name = f"tuneline-{short(dossier.id)}"
    evaluated = [e for e in dossier.evaluations if dossier.manifests[e].config.get("nf4") is None]
    how = f"evaluation {short(evaluated[-1])}" if evaluated else "no evaluation measured that"
    served_by = f"vllm serve {served} --enable-lora{limit} --lora-modules {name}=path/to/this/directory"
    converted = "python convert_lora_to_gguf.py path/to/this/directory --base path/to/the/base"
    return [
        Snippet("transformers and PEFT", "python", python + ANSWER),
        Snippet(f"vLLM (over the base as it is stored, not in NF4: {how})", "console", f"$ {served_by}"),
        Snippet(
            "llama.cpp (its converter, from the commit of the llama.cpp that will serve it)",
            "console",
            f"$ {converted}\n$ llama-server --model base.gguf --lora adapter.gguf",
        ),
    ]


def _in_nf4(revision: str, quant: QuantSpec) -> str:
    # What was asked for may be `auto`; what it came out as is recorded beside it.
    settings = {**quant.requested, **quant.effective}
    compute = "float32" if settings.get("compute_dtype") == "float32" else "bfloat16"
    return dedent(f"""\
        nf4 = BitsAndBytesConfig(  # as it was trained
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant={bool(quant.requested.get("double_quant", True))},
            bnb_4bit_compute_dtype=torch.{compute},
        )
        model = AutoModelForCausalLM.from_pretrained(
            base{revision}, quantization_config=nf4, dtype=torch.bfloat16
        )
        """)


def _whole(dossier: Dossier) -> list[Snippet]:
    load = 'AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()'
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    return [
        Snippet("transformers", "python", _exported(dossier).program(imports, load)),
        Snippet("vLLM", "console", "$ vllm serve path/to/this/directory"),
        Snippet(
            "llama.cpp (its converter, from the commit of the llama.cpp that will serve it)",
            "console",
            "$ python convert_hf_to_gguf.py path/to/this/directory --outfile model.gguf\n"
            "$ llama-server --model model.gguf",
        ),
    ]
