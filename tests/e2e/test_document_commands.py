"""The commands that the documents show, run on a registry that a run of `pico-smoke` made.

Each document has its own copy of that registry, made as docs/registry.md says to make a backup. The commands
run in the order of the page, with real ids and names in place of those of the page, in this process (they
are many, and only the first of a process has to import). What a page shows has to be of the shape of what
is printed: the same words and columns around other ids, numbers and times.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from flows import cli
from registry import Registry
from registry.feeds.traffic import Feedback, Receipt
from registry.tenancy.outcomes import Outcome
from tests.e2e.conftest import Tuneline
from tests.test_documents import ROOT, shown_commands

Pico = tuple[Tuneline, dict[str, Any]]
Prepare = Callable[[Path, Callable[..., None]], None]


@dataclass(frozen=True)
class Page:
    """What is run of a document.

    All commands are named as on the page.
    `real`: a part of commands and outputs → what stands for it here, `{quantized}` for the id of that kind.
    `elsewhere`: beginnings of commands that are not run here, each with the reason.
    `codes`: text of a command → its exit code, where that is not 0.
    `before`: beginning of a command → what has to be there for it.
    `others`: beginnings of commands whose output is of another kind here than on the page.
    A long line of output may go on in the next one on the page.
    """

    real: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    before: Mapping[str, Prepare] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def moved_once(folder: Path, tuneline: Callable[..., None]) -> None:
    """A rollback needs a move before."""
    tuneline("promote", "{merged}", "pico/smoke", "--waive", "--who", "ada", "--reason", "for a day")


def exports(folder: Path, tuneline: Callable[..., None]) -> None:
    tuneline("artifacts", "export", "{base}", str(folder / "exports/base"))
    tuneline("artifacts", "export", "{adapter}", str(folder / "exports/adapter"))


def key_beside(folder: Path, tuneline: Callable[..., None]) -> None:
    shutil.copyfile(folder / ".tuneline/keys/signing.pub.pem", folder / "signing.pub.pem")


def changed_export(folder: Path, tuneline: Callable[..., None]) -> None:
    shutil.copytree(folder / "support-model", folder / "changed")
    (folder / "changed/extra.bin").write_bytes(b"extra")
    with (folder / "changed/model.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def own_models_and_data(folder: Path, tuneline: Callable[..., None]) -> None:
    """What docs/bring-your-own.md takes to be there, and its recipe."""
    tuneline("artifacts", "export", "{base}", str(folder / "models/base"))
    tuneline("artifacts", "export", "{adapter}", str(folder / "models/my-lora"))
    (folder / "data").mkdir()
    rows = ({"prompt": f"What is {n} + 1?", "completion": str(n + 1)} for n in range(200))
    (folder / "data/support.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    page = (ROOT / "docs/bring-your-own.md").read_text("utf-8")
    recipe = re.findall(r"^```yaml\n(name: support\n.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    (folder / "support.yaml").write_text(
        recipe.replace("path:models/SmolLM2-135M-Instruct", "path:models/base")
    )


def rows_with_calls(folder: Path, tuneline: Callable[..., None]) -> None:
    """A base whose template has no tools, and the page's row for ten towns."""
    tuneline("artifacts", "export", "{base}", str(folder / "models/pico"))
    page = (ROOT / "docs/bring-your-own.md").read_text("utf-8")
    row = json.dumps(json.loads(re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]))
    towns = ("Bo", "Ho", "Ur", "Pau", "Ulm", "Bari", "Oslo", "Lima", "Kyiv", "Bonn")
    (folder / "calls.jsonl").write_text("".join(row.replace("Bo", town) + "\n" for town in towns), "utf-8")


def template_with_tools(folder: Path, tuneline: Callable[..., None]) -> None:
    """The page's template in the base, and the rows prepared with it."""
    page = (ROOT / "docs/bring-your-own.md").read_text("utf-8")
    template = re.findall(r"^```jinja\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    (folder / "models/pico/chat_template.jinja").write_text(template, "utf-8")
    few = ("--set", "split.test=0", "--set", "split.validation=0", "--set", "near_duplicates=null")
    source = "source=path:calls.jsonl"
    tuneline("prepare", "--base", "models/pico", "--out", "data/calls", "--set", source, *few)


def policy(folder: Path, tuneline: Callable[..., None]) -> None:
    """The policy on docs/gates.md."""
    page = (ROOT / "docs/gates.md").read_text("utf-8")
    (folder / "support.yaml").write_text(
        re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    )


def two_users(folder: Path, tuneline: Callable[..., None]) -> None:
    """Those of docs/access.md, whose tokens differ each time."""
    with Registry.open(folder / ".tuneline") as registry:
        if registry.users.exist():
            return
    for name, role in (("ada", "admin"), ("olga@example.org", "operator")):
        tuneline("users", "add", name, "--role", role)


def week(folder: Path, tuneline: Callable[..., None]) -> None:
    """Inputs of five days that are longer than those of the training data."""
    draw = random.Random(1)
    for day in ("mon", "tue", "wed", "thu", "fri"):
        texts = (" ".join(f"word{draw.randrange(400)}" for _ in range(30)) for _ in range(40))
        (folder / f"{day}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))


def disliked_since(folder: Path, tuneline: Callable[..., None]) -> None:
    """Answers that are liked, a promotion, and answers that are not."""
    with Registry.open(folder / ".tuneline") as registry:
        registry.feeds.add("tickets", [], "ops")
        _, key, _ = registry.tenants.add("acme", "pico/smoke", "ops")
        consent = registry.consents.give("acme", "tickets", 1.0, 30, [], "ada")
        for thumbs in ("up", "down"):
            channel = registry.channels.get("pico/smoke")
            assert channel is not None
            for number in range(40):
                request = f"{thumbs.encode().hex():0<30}{number:02}"
                asked = [{"role": "user", "content": "why"}]
                receipt = Receipt(
                    request, key.id, consent, "pico/smoke", channel.artifact_id, "live", datetime.now(UTC),
                    asked, f"because {number}",
                )  # fmt: skip
                registry.traffic.keep([receipt])
                registry.traffic.give(key.id, Feedback.model_validate({"request": request, "thumbs": thumbs}))
            if thumbs == "up":
                moved_once(folder, tuneline)


def candidate_that_fails(folder: Path, tuneline: Callable[..., None]) -> None:
    """A canary that the policy on docs/canary.md asks for, and what a gateway counts of it."""
    page = (ROOT / "docs/canary.md").read_text("utf-8")
    policy = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0])["gate"]
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    channel = "pico/smoke"
    tuneline(
        "channels", "policy", channel, "--set", str(folder / "policy.yaml"), "--reason", "a canary first"
    )
    tuneline("channels", "rollout", channel, "{merged}", "--canary", "10", "--reason", "to see")
    with Registry.open(folder / ".tuneline") as registry:
        live, rollout = registry.channels.get(channel), registry.rollouts.current(channel)
        assert live is not None
        assert rollout is not None
        sides = (("live", live.artifact_id, 270, 3), ("canary", rollout.candidate, 30, 15))
        for arm, artifact, requests, failed in sides * 4:
            registry.outcomes.add([Outcome(
                channel=channel, generation=live.generation, artifact_id=artifact, arm=arm,  # type: ignore[arg-type]
                minute=datetime.now(UTC), requests=requests, failed=failed,
            )])  # fmt: skip


def tickets(folder: Path, tuneline: Callable[..., None]) -> None:
    """The files on docs/feeds.md: the second begins with a row of the first."""
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in (
            ("I cannot log in", "access"), ("Where is my parcel", "delivery"),
            ("The router is dead", "hardware"), ("Charged twice", "billing"),
        )
    ]  # fmt: skip
    for name, those in (("monday", rows[:3]), ("acme", [rows[0], rows[3]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in those))
    tuneline("tenants", "add", "acme", "pico/smoke")


PAGES = {
    "drift.md": Page(
        real={"support/prod": "pico/smoke"},
        codes={
            "drift support/prod --new mon.jsonl tue.jsonl wed.jsonl thu.jsonl fri.jsonl": 1,
            "drift support/prod --new mon.jsonl tue.jsonl wed.jsonl thu.jsonl fri.jsonl --hidden-states": 1,
            "drift support/prod --outcomes": 1,
        },
        before={"drift support/prod --new": week, "drift support/prod --outcomes": disliked_since},
    ),
    "canary.md": Page(
        real={"support/prod": "pico/smoke", "channels judge": "channels judge --once",
              "gate show fcdad6c4db6a": "gate show {decision}"},
        before={"channels judge": candidate_that_fails},
    ),
    "feeds.md": Page(
        real={"recorded by root": "recorded by {who}"},
        before={"feed add tickets monday.jsonl": tickets},
    ),
    "access.md": Page(
        elsewhere={
            "users add": "prints another token each time; tests/flows/commands/test_access.py",
            "users audit": "names who runs this; tests/flows/commands/test_access.py",
            "webhooks test": "asks another machine; tests/flows/commands/test_access.py",
            "ui": "runs until it is ended; tests/flows/ui",
        },
        before={"users": two_users},
    ),
    "README.md": Page(
        real={
            "demo/prod": "pico/smoke",
            "copy demo": "copy pico-smoke",
            "--candidate ID": "--candidate {quantized}",
        },
        elsewhere={
            "doctor": "tests/flows/doctor/test_doctor.py: what it finds is the machine's",
            "run ": "test_pico.py, test_tenant.py",
            "tenants add acme pico/tenant": "test_tenant.py",
            "serve": "test_tenant.py",
            "runs open": "opens a browser; tests/flows/run/test_runs.py",
        },
        before={"rollback": moved_once},
    ),
    "registry.md": Page(
        real={
            "868bb6b56e90": "{merged}", "5147d69fb03f": "{adapter}", "support/prod": "pico/smoke",
            "pico/smoke support@1 --canary": "pico/smoke {merged} --canary", "other@1": "{base}",
        },
        elsewhere={
            "artifacts export 84b9fd05ef73": "tests/registry: needs a collection",
            "api": "runs until it is ended; tests/registry",
        },
        codes={
            "promote 868bb6b56e90 pico/smoke": 1,
            "artifacts verify changed --public-key signing.pub.pem": 4,
        },
        before={
            "artifacts import exports/base": exports,
            "artifacts verify support-model --public-key": key_beside,
            "artifacts verify changed": changed_export,
        },
        others=("artifacts gc --keep-days", "artifacts ls", "promote"),
    ),
    "gates.md": Page(
        real={"support/prod": "pico/smoke", "5764346d": "{decision}"},
        elsewhere={
            "gate support": "tests/flows/commands/gates/test_gate.py: needs a registry of made-up answers",
            "gate plan": "tests/flows/commands/gates/test_gate.py: takes a while",
            "promote": "tests/flows/commands/gates/test_channels.py",
            "evaluate": "tests/stages/test_general_knowledge.py: needs two forms of SmolLM2",
            "gate general.yaml": "tests/flows/commands/gates/test_gate.py: of directories",
        },
        before={"channels policy support/prod --set": policy},
    ),
    "bring-your-own.md": Page(
        elsewhere={
            "run ": "test_pico.py",
            "quantize": "test_plain.py",
            "evaluate": "test_plain.py",
        },
        codes={"prepare --base models/pico --out data/calls --set source=path:calls.jsonl": 3},
        before={
            "check": own_models_and_data,
            "prepare --base models/pico": rows_with_calls,
            "data view": template_with_tools,
        },
    ),
}  # fmt: skip


def shapes(text: str) -> list[str]:
    """Each line with ids, numbers, times and widths made alike."""
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "WHEN", text)
    text = re.sub(r"[-+]?\d[\d.,]*( ?[kMG]?B\b)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def replaced(text: str, real: Mapping[str, str], space: str = " ") -> str:
    """The text with real names in place of the page's, in that order; `space` stands between its words."""
    for of_page, here in real.items():
        text = text.replace(of_page.replace(" ", space), here.replace(" ", space))
    return text


def shown_output(page: str) -> list[tuple[list[str], str]]:
    """Each shown command with the lines below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^(?=\$ )", block.replace("\\\n", " "), flags=re.MULTILINE):
            line, _, below = part.partition("\n")
            for words in shown_commands(f"```console\n{line}\n```\n"):
                found.append((words, below))
    return found


@pytest.fixture
def home(pico: Pico, tmp_path: Path) -> Iterator[Path]:
    """A folder whose .tuneline is a copy of the pico home, made as docs/registry.md makes a backup."""
    copy = tmp_path / ".tuneline"
    copy.mkdir()
    with closing(sqlite3.connect(pico[0].home / "registry.db")) as database:
        database.execute(f"VACUUM INTO '{copy / 'registry.db'}'")
    for name in ("blobs", "keys", "runs"):
        shutil.copytree(pico[0].home / name, copy / name)
    with patch.dict(os.environ):  # a command may set variables for its libraries
        yield tmp_path


def decision_on(home: Path, candidate: str) -> str:
    with Registry.open(home / ".tuneline") as registry:
        return registry.gates.about(candidate)[0].id


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_do_what_it_shows(
    pico: Pico, home: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("TUNELINE_HOME", raising=False)
    page, rows = PAGES[name], {row["stage"]: row["artifact_id"] for row in pico[1]["stages"]}
    ids = {"base": rows["resolve"], "adapter": rows["train"], "merged": rows["merge"],
           "quantized": rows["quantize"], "decision": decision_on(home, rows["quantize"]),
           "who": getpass.getuser()}  # fmt: skip

    def tuneline(*words: str) -> None:
        assert cli.main([word.format(**ids) for word in words]) == 0, capsys.readouterr()

    text = (ROOT / name if name == "README.md" else ROOT / "docs" / name).read_text("utf-8")
    unused = {*page.elsewhere, *page.codes, *page.before, *page.others}
    real = {of_page: here.format(**ids) for of_page, here in page.real.items()}
    for words, below in shown_output(text):
        typed = " ".join(words)
        unused -= {one for one in unused if typed.startswith(one)}
        if typed.startswith(tuple(page.elsewhere)):
            continue
        for beginning, prepare in page.before.items():
            if typed.startswith(beginning):
                prepare(home, tuneline)
        capsys.readouterr()
        code = cli.main(replaced("\0".join(words), real, "\0").split("\0"))
        said = "".join(capsys.readouterr())
        assert code == page.codes.get(typed, 0), f"{typed}: {said}"
        shown = [replaced(line, real) for line in shapes(below.split("…")[0])]
        if shown and not typed.startswith(page.others):
            printed = shapes(said.replace(str(home), "/home/ada"))
            assert any(line.startswith(shown[0]) for line in printed), f"{typed}: {said}"
    assert not unused, "no command on the page begins so"


NOT_TUNELINE = {
    "deploy.md": {
        "make stack": "tests/deploy/test_stack.py",
        "sudo apt-get install": "what tests/deploy/test_stack.py finds on PATH, or fails",
        "make image": "tests/deploy/test_image.py",
        "sudo debootstrap": "makes the base that tests/deploy/test_image.py builds on",
        "sudo tar": "makes the base that tests/deploy/test_image.py builds on",
        "sudo useradd": "systemd's: tests/deploy/test_systemd.py starts the units' commands",
        "sudo git clone": "systemd's: tests/deploy/test_systemd.py",
        "sudo mkdir": "systemd's: tests/deploy/test_systemd.py",
        "sudo cp": "systemd's: tests/deploy/test_systemd.py",
        "sudo systemctl": "systemd's: tests/deploy/test_systemd.py verifies the units",
    },
    "feeds.md": {
        "curl -H \"Authorization: Bearer $TOKEN\"": "tests/flows/ui/test_feeds.py",
        "curl -H \"Authorization: Bearer $KEY\"": "tests/serving/gateway/test_feedback.py",
    },
}  # fmt: skip
"""Beginnings of commands of these pages that are not Tuneline's → what runs them, or why nothing does."""


@pytest.mark.parametrize("name", NOT_TUNELINE)
def test_commands_that_are_not_tunelines_are_run_elsewhere(name: str) -> None:
    page = (ROOT / "docs" / name).read_text("utf-8")
    shown = [
        line
        for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE)
        if not line.startswith("tuneline ")
    ]
    listed = NOT_TUNELINE[name]
    assert [line for line in shown if not line.startswith(tuple(listed))] == []
    assert [one for one in listed if not any(line.startswith(one) for line in shown)] == []
    for reason in listed.values():
        assert all((ROOT / file).is_file() for file in re.findall(r"tests/\S+\.py", reason)), reason
