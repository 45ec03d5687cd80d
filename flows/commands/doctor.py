"""`tuneline doctor`: look at everything that a run rests on."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from flows.commands.reply import Reply
from flows.doctor.examination import look
from flows.formatting import plain
from flows.installation import is_light
from flows.run.readers import remark
from flows.settings import Settings


def doctor(arguments: argparse.Namespace) -> Reply:
    """One line for each thing; exit code 3 when one fails."""
    if arguments.full and not is_light():
        remark("starting Prefect's server, which takes about half a minute")
    findings = look(Settings(), arguments.full)
    failed = any(finding.state == "fail" for finding in findings)

    width = max(11, *(len(finding.subject) for finding in findings))

    def show() -> None:
        for finding in findings:
            print(f"{finding.state:<5} {finding.subject:<{width}} {plain(finding.found)}")
            if finding.remedy:
                print(f"{'':<{width + 6}} → {plain(finding.remedy)}")

    return Reply({"checks": [asdict(finding) for finding in findings]}, show, 3 if failed else 0)
