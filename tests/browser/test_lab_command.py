"""`prctlmm-lab lab` opens JupyterLab on the first notebook, for root too, and ends when told."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.browser.jupyterlab import environment, free_port, wait_for_line

ROOT = Path(__file__).resolve().parents[2]


def what_arrives(fifo: Path, seconds: float) -> bytes:
    """Read what somebody writes into a named pipe, waiting for it so long at most."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(seconds * 1000), "no browser was opened"
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def test_the_first_notebook_is_opened(tmp_path: Path) -> None:
    asked, port = tmp_path / "asked", free_port()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nexec cat "${{1#file://}}" >{asked}\n')
    browser.chmod(0o755)
    os.mkfifo(asked)
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text(
        f"c.ServerApp.port = {port}\nc.ServerApp.port_retries = 0\nc.ServerApp.ip = '127.0.0.1'\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "prctlmm_lab", "lab"],
        cwd=ROOT,
        env=environment(tmp_path) | {"BROWSER": str(browser)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_for_line(process, b"is running at", 60)
        assert b"/lab/tree/00-rename-a-living-process.ipynb" in what_arrives(asked, 30)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
