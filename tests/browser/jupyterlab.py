"""A JupyterLab of our own in Debian's Chromium: on loopback, in its own folders, with deadlines."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# The server ends when its standard input does, so it cannot outlive whoever started it.
_UNTIL_END_OF_FILE = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
server.terminate()
try:
    server.wait(20)
except subprocess.TimeoutExpired:
    server.kill()
    server.wait()
"""
_KERNEL_IS_IDLE = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.isReady && context.session?.kernel?.status === 'idle';
}"""
_RUN_ALL = """() => {
  window.jupyterapp.commands.execute('notebook:run-all-cells')
    .then(() => { window.allCellsRan = true; });
}"""
_SETTINGS: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Every cell is on the page, also those that are scrolled out of sight.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def browser_path() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def server(folder: Path, *, seconds: float = 60) -> Iterator[str]:
    """Serve copies of the notebooks from a folder and yield the address; everything ends with it.

    Raises TimeoutError, with what the server said, if it does not start in time.
    """
    notebooks = folder / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks)
    for plugin, values in _SETTINGS.items():
        settings = folder / "settings" / f"{plugin}.jupyterlab-settings"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(values))
    port = free_port()
    command = [
        sys.executable, "-c", _UNTIL_END_OF_FILE,
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--port-retries=0", "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={notebooks}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_for_line(process, b"is running at", seconds)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which Jupyter keeps everything below a folder."""
    own = {
        "HOME": folder, "JUPYTER_CONFIG_DIR": folder / "config", "IPYTHONDIR": folder / "ipython",
        "JUPYTER_RUNTIME_DIR": folder / "runtime", "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "PRCTLMM_LAB_LOGBOOK": folder / "logbook.jsonl",
    }  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return (
        dict(os.environ) | {name: str(value) for name, value in own.items()} | {"PYTHONPATH": path}
    )


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_line(process: subprocess.Popen[bytes], wanted: bytes, seconds: float) -> bytes:
    """Read standard error until a text stands in it, and return what was said till then.

    Raises TimeoutError, with what was said, if it does not come in time.
    """
    assert process.stderr is not None
    said, deadline = b"", time.monotonic() + seconds
    while wanted not in said:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([process.stderr], [], [], left)
        chunk = os.read(process.stderr.fileno(), 1 << 16) if ready else b""
        if not chunk:
            raise TimeoutError(f"JupyterLab did not start: {said.decode(errors='replace')[-2000:]}")
        said += chunk
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the watcher's standard input, and wait for it and the server to end."""
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextlib.contextmanager
def page(address: str, notebook: str) -> Iterator[Any]:
    """Open a notebook in JupyterLab and yield Playwright's page, its kernel idle.

    `page.problems` lists what the browser's console called an error.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=QUIET)
        try:
            opened = browser.new_page(viewport={"width": 1600, "height": 1300})
            opened.set_default_timeout(60_000)
            opened.goto(f"{address}/lab/workspaces/test/tree/{notebook}?reset")
            # Before the session stands, a run would ask which kernel to take.
            opened.wait_for_function(_KERNEL_IS_IDLE)
            yield opened
        finally:
            browser.close()


def run_all(opened: Any) -> None:
    """Run all cells and wait until the kernel has done them."""
    opened.evaluate(_RUN_ALL)
    opened.wait_for_function("() => window.allCellsRan")
