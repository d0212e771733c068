"""The table of counts against /proc itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prctlmm_lab import Specimen
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.views.counts import counts_table


def test_it_says_what_proc_says() -> None:
    with Specimen() as specimen:
        specimen.set_map(specimen.current_map().changed(start_code=0x400FFF, end_code=0x401001))
        table = counts_table({"now": specimen.snapshot()})
        statm = Path(f"/proc/{specimen.pid}/statm").read_text().split()
        status = Path(f"/proc/{specimen.pid}/status").read_text()
    row = table.loc["now"]
    assert [str(row[f"statm {name}"]) for name in ("size", "text", "data")] == [
        statm[0], statm[3], statm[5],
    ]  # fmt: skip
    assert row["statm text"] == 2
    for name in ("VmExe", "VmLib", "VmData", "VmStk"):
        (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
        assert line.split(":")[1].strip() == row[name]


def test_what_cannot_be_read_says_so() -> None:
    with Specimen() as specimen:
        state = specimen.snapshot()
    hidden = replace(state, statm=Unreadable("/proc/1/statm", 13))
    table = counts_table({"live": state, "hidden": hidden})
    assert table.loc["hidden", "statm text"] == "not readable (EACCES)"
    assert str(table.loc["hidden", "VmExe"]) == str(table.loc["live", "VmExe"])
