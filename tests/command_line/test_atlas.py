"""`prctlmm-lab atlas fetch|list|remove`: kernels got, shown and deleted, on a made-up machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from prctlmm_lab.atlas.images import image_at
from tests.atlas.mirror import Key, Mirror, debian, new_key
from tests.command_line.command import assert_readable, prctlmm_lab
from tests.needs import needs_tool

RELEASES = ["5.10.0-46-cloud-amd64", "6.19.14+deb13-amd64", "7.2.10+deb13-cloud-amd64"]


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    for tool in ("gpg", "gpgconf"):
        needs_tool(tool)
    with new_key() as made:
        yield made


@pytest.fixture
def mirror(tmp_path: Path, key: Key) -> Mirror:
    return debian(tmp_path, key)


def atlas(mirror: Mirror, *arguments: str) -> CompletedProcess[str]:
    return prctlmm_lab("atlas", *arguments, more=mirror.environment)


def fine(ran: CompletedProcess[str]) -> str:
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def refused(ran: CompletedProcess[str]) -> str:
    """Return the one sentence of a command that could not do it."""
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("prctlmm-lab")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


def test_fetch_list_and_remove_as_a_person_reads_them(mirror: Mirror) -> None:
    available = fine(atlas(mirror, "list", "--available"))
    assert_readable(available)
    rows = [line.split() for line in available.splitlines()]
    assert [row[0] for row in rows[1:-1]] == ["5.10.262", "6.19.14", "7.2.10"]
    assert [row[2:] for row in rows[1:-1]] == [["40", "KiB"]] * 3

    fetched = fine(atlas(mirror, "fetch"))
    assert_readable(fetched)
    offered, _, lines = fetched.partition("\n\n")
    assert offered == available.strip()
    assert [line.split()[1] for line in lines.splitlines()] == RELEASES

    listed = fine(atlas(mirror, "list"))
    assert listed.startswith(lines)
    assert "\n3 kernels, 60 KiB in" in listed
    assert str(mirror.folder / "kernels") in listed
    assert fine(atlas(mirror, "fetch", "7.2")).count("is here") == 1

    removed = fine(atlas(mirror, "remove", "6.19", "7.2.10"))
    assert removed == f"{RELEASES[1]}, {RELEASES[2]}\n2 kernels removed, 40 KiB\n"
    assert fine(atlas(mirror, "remove", "--all")) == f"{RELEASES[0]}\n1 kernel removed, 20 KiB\n"
    assert [path.name for path in (mirror.folder / "kernels").iterdir()] == [".lock"]
    assert "prctlmm-lab atlas fetch" in fine(atlas(mirror, "list"))


def test_as_json_all_is_told_and_nothing_else(mirror: Mirror) -> None:
    available = json.loads(fine(atlas(mirror, "list", "--available", "--json")))
    assert [(each["release"], each["kept"]) for each in available] == [(r, False) for r in RELEASES]
    everything = json.loads(fine(atlas(mirror, "list", "--available", "--all", "--json")))
    assert {each["series"] for each in everything} == {"4.19", "5.10", "6.19", "7.2"}

    fetched = [*map(json.loads, fine(atlas(mirror, "fetch", "--json", "5.10", "7.2")).splitlines())]
    for told in fetched:
        image = image_at(told["path"])
        assert (image.release, image.version, image.machine, image.package) == (
            told["release"], told["version"], told["machine"], told["package"],
        )  # fmt: skip
        assert Path(told["path"]).stat().st_size == told["size"]
    listed = json.loads(fine(atlas(mirror, "list", "--json")))
    assert listed["kept"] == fetched
    assert listed["folder"] == str(mirror.folder / "kernels")
    assert json.loads(fine(atlas(mirror, "list", "--machine", "aarch64", "--json")))["kept"] == []
    assert json.loads(fine(atlas(mirror, "remove", "5.10", "--json"))) == fetched[:1]


def test_what_cannot_be_done_is_one_sentence(mirror: Mirror) -> None:
    assert "'6.3' is no kernel that apt has here" in refused(atlas(mirror, "fetch", "6.3"))
    assert "'5.10' is not among the kernels" in refused(atlas(mirror, "remove", "5.10"))
    assert "a VERSION or more, or --all" in refused(atlas(mirror, "remove"))
    assert "a VERSION or more, or --all" in refused(atlas(mirror, "remove", "5.10", "--all"))
    assert "--available" in refused(atlas(mirror, "list", "--all"))
    assert "invalid choice: 'vax'" in refused(atlas(mirror, "fetch", "--machine", "vax"))
    mirror.machine(uri="http://127.0.0.1:9/nothing")
    assert "Connection refused" in refused(atlas(mirror, "fetch", "--json"))


def test_what_apt_refused_is_told_beside_what_was_got(mirror: Mirror) -> None:
    signed = mirror.root / "dists" / "bullseye" / "InRelease"
    signed.write_text(signed.read_text().replace("Label: Debian", "Label: Debiam"))
    ran = atlas(mirror, "fetch", "--json")
    assert ran.returncode == 0
    assert [json.loads(line)["release"] for line in ran.stdout.splitlines()] == RELEASES[1:]
    assert "prctlmm-lab: apt: GPG error" in ran.stderr


@pytest.mark.parametrize("name", ["", "fetch", "list", "remove"])
def test_help_fits_a_terminal_and_has_an_example(name: str) -> None:
    ran = prctlmm_lab("atlas", *filter(None, [name]), "--help")
    assert_readable(fine(ran))
    assert "Example: prctlmm-lab atlas" in ran.stdout
