"""How an exported model is loaded, as text that a reader can copy from its card."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

ANSWER = dedent("""\
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    answer = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
    """)
"""The end of a program that has `model`, `tokenizer` and `messages`."""


@dataclass(frozen=True)
class Snippet:
    """One way to load a model: for which library, in which language, the text to copy."""

    title: str
    language: str
    code: str


@dataclass(frozen=True)
class Exported:
    """An exported directory, whose path the reader fills in, and the lines that programs for it share."""

    files: tuple[str, ...]
    is_adapter: bool
    messages: str
    """A chat to try, as Python."""
    base: str
    """The line that names the base, where the tokenizer's need it."""
    tokenizer: str

    def program(self, imports: str, load: str) -> str:
        """One in Python that answers with what `load` makes of `directory`."""
        directory = f'directory = "path/to/this/directory"\n{self.base}'
        loaded = f"model = {load}\n{self.tokenizer}messages = {self.messages}\n"
        return f"{imports}\n{directory}{loaded}{ANSWER}"
