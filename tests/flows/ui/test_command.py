"""`tuneline ui`: how the command ends."""

from __future__ import annotations

import http.cookiejar
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from registry import Registry
from tests.seconds import seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_page_that_listens_does_not_keep_the_command(tmp_path: Path, number: signal.Signals) -> None:
    with Registry.open(tmp_path):
        pass
    command = [sys.executable, "-m", "flows.cli", "ui", "--port", "0", "--json"]
    environment = {**os.environ, "TUNELINE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        browser = urllib.request.build_opener(cookies)
        browser.open(told["link"], timeout=seconds(20)).close()
        with browser.open(f"{told['url']}/events", timeout=seconds(20)) as events:
            assert events.readline() == b"retry: 3000\n"
            process.send_signal(number)
            _, said = process.communicate(timeout=seconds(30))
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (0, ""), "the stream was broken off after the grace for answers"
