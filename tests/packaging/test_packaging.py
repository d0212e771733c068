"""The package as it is delivered: its metadata, its set-up, and which part imports which."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

import prctlmm_lab

TOP = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
DEADLINE = 60.0
"""Seconds after which a wait of these tests counts as endless."""


# ---- metadata ---------------------------------------------------------------------------------


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    loose = [each for each in named if not re.fullmatch(r"[a-z-]+>=[\d.]+,<[\d.]+", each)]
    assert loose == []
    assert len(names(named)) == len(named), "one is named twice"


def imported_packages(folder: Path) -> set[str]:
    """Return the distributions whose modules are imported anywhere below a folder."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    modules -= {*sys.stdlib_module_names, "bench", "docs", "prctlmm_lab", "tests"}
    owners = packages_distributions()
    return {owners.get(module, [module])[0].lower().replace("_", "-") for module in modules}


def names(requirements: Sequence[str]) -> set[str]:
    return {each.split(">")[0] for each in requirements}


def test_every_package_that_is_imported_is_declared() -> None:
    needed = names(PROJECT["dependencies"])
    assert imported_packages(TOP / "prctlmm_lab") - needed == set()
    needed |= names(PROJECT["optional-dependencies"]["test"])
    assert imported_packages(TOP / "tests") - needed == set()
    assert imported_packages(TOP / "bench") - needed == set()
    assert imported_packages(TOP / "docs") - needed == set()


def test_environment_yml_names_what_pyproject_names() -> None:
    environment = yaml.safe_load((TOP / "environment.yml").read_text())
    *packages, last = environment["dependencies"]
    python = f"python{PROJECT['requires-python']}"
    assert sorted(packages) == sorted([python, "pip", *PROJECT["dependencies"]])
    assert last == {"pip": ["-e ."]}
    assert (environment["name"], environment["channels"]) == (PROJECT["name"], ["conda-forge"])


def test_citation_names_the_version_and_licence_of_the_package() -> None:
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert citation["version"] == prctlmm_lab.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_devcontainer_adds_no_capability() -> None:
    container = json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())
    adding = {"capAdd", "features", "mounts", "privileged", "runArgs", "securityOpt"}
    assert adding.isdisjoint(container)
    assert (TOP / container["postCreateCommand"]).is_file()


# ---- .ci/prepare ------------------------------------------------------------------------------

TOOLS = "cat chmod cksum cp dd dirname find grep mkdir mv rm sed sh tail".split()
"""The commands that .ci/prepare and the fake interpreter need besides a Python."""

FAKE_PYTHON = """\
#!/bin/sh
case "$1 $2 $3" in
"-I -m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && exit ;;
"-I -m pip") exec sh {pip} ;;
esac
while [ "$1" != -c ]; do shift; done
program=$2
shift 2
exec {real} -I -c "import sys
{prelude}
$program" "$@"
"""
"""The real interpreter with changed knowledge of itself, an instant venv and a scripted pip."""

INSTALLS = ": >.venv/bin/prctlmm-lab; chmod +x .venv/bin/prctlmm-lab"


@dataclass(frozen=True)
class SetUp:
    """A copy of what .ci/prepare reads, and a PATH with nothing but its tools and fakes."""

    tree: Path
    bin: Path

    def python(self, name: str = "python3", prelude: str = "") -> Path:
        """Put a fake interpreter on the PATH."""
        path = self.bin / name
        path.write_text(
            FAKE_PYTHON.format(
                pip=shlex.quote(str(self.bin / "pip")),
                real=shlex.quote(os.path.realpath(sys.executable)),
                prelude=f"sys.executable = {str(path)!r}; {prelude}",
            )
        )
        path.chmod(0o755)
        return path

    def pip(self, script: str) -> None:
        """Say what pip does from now on; that it was called is noted."""
        calls = shlex.quote(str(self.bin / "calls"))
        new = self.bin / "pip.new"
        new.write_text(f"echo pip >>{calls}\n{script}\n")
        new.replace(self.bin / "pip")  # a shell may still read the old one

    def pip_calls(self) -> int:
        calls = self.bin / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def start(
        self, environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.tree / ".ci" / "prepare"],
            cwd="/",
            env={"PATH": str(self.bin), "HOME": str(self.bin), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )

    def run(self, **environment: str) -> tuple[int, list[str]]:
        """Run .ci/prepare: its exit status, and the lines it printed on standard error."""
        with self.start(environment) as process:
            output, errors = process.communicate(timeout=DEADLINE)
        assert output == ""
        return process.returncode, errors.splitlines()

    @property
    def ready(self) -> Path:
        return self.tree / ".venv" / ".ready"


@pytest.fixture
def setup(tmp_path: Path) -> SetUp:
    """Copy the set-up, with a fake Python that fits and a pip that installs."""
    made = SetUp(tmp_path / "it's a tree", tmp_path / "bin")
    made.bin.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, f"{tool} is not installed"
        (made.bin / tool).symlink_to(found)
    shutil.copytree(TOP / ".ci", made.tree / ".ci")
    shutil.copy(TOP / "pyproject.toml", made.tree)
    made.python()
    made.pip(INSTALLS)
    return made


def oldest_python() -> tuple[int, int]:
    found = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert found is not None
    return int(found[1]), int(found[2])


def claiming(major: int, minor: int) -> str:
    """Make an interpreter say that it is of another version."""
    return f"sys.version_info = ({major}, {minor}, 7, 'final', 0)"


def test_prepare_takes_the_oldest_python_that_pyproject_names(setup: SetUp) -> None:
    setup.python(prelude=claiming(*oldest_python()))
    status, _ = setup.run()
    assert (status, setup.ready.exists()) == (0, True)


def test_prepare_refuses_an_older_python_and_names_its_version(setup: SetUp) -> None:
    major, minor = oldest_python()
    setup.python(prelude=claiming(major, minor - 1))
    status, lines = setup.run()
    assert status == 2
    assert len(lines) == 1
    assert f"Python {major}.{minor} or newer is needed" in lines[0]
    assert f"Python {major}.{minor - 1}.7 " in lines[0]
    assert not (setup.tree / ".venv").exists()


def test_prepare_goes_on_to_a_newer_python_beside_an_old_one(setup: SetUp) -> None:
    setup.python(prelude=claiming(3, 8))
    newer = setup.python("python3.13")
    assert setup.run()[0] == 0
    assert setup.ready.read_text().splitlines()[-1] == str(newer)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_prepare_names_the_missing_module_and_the_package_with_it(
    setup: SetUp, module: str
) -> None:
    setup.python(prelude=f"sys.modules[{module!r}] = None")
    status, lines = setup.run()
    assert (status, len(lines)) == (2, 1)
    assert f"lacks its module {module}: install it" in lines[0]
    assert "apt install python3-venv" in lines[0]
    assert not (setup.tree / ".venv").exists()


def test_prepare_says_that_there_is_no_python(setup: SetUp) -> None:
    (setup.bin / "python3").unlink()
    status, lines = setup.run()
    assert (status, len(lines)) == (2, 1)
    assert "no Python was found" in lines[0]


def test_prepare_says_that_the_chosen_python_does_not_start(setup: SetUp) -> None:
    status, lines = setup.run(PYTHON="/nowhere/python3")
    assert (status, len(lines)) == (2, 1)
    assert "PYTHON=/nowhere/python3 does not start" in lines[0]


def test_prepare_says_that_the_folder_cannot_be_written(setup: SetUp) -> None:
    mkdir = setup.bin / "mkdir"
    mkdir.unlink()
    mkdir.write_text("#!/bin/sh\necho 'mkdir: .venv: Read-only file system' >&2\nexit 1\n")
    mkdir.chmod(0o755)
    status, lines = setup.run()
    assert (status, len(lines)) == (2, 1)
    assert f"cannot write to {setup.tree}/.venv (Read-only file system)" in lines[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full: free 1 GB"),
        ("OSError: [Errno 13] Permission denied: '/x'", "cannot write to"),
        ("Temporary failure in name resolution", "the package index cannot be reached"),
        (
            "ERROR: No matching distribution found for ruff<0.18",
            "pip found no ruff<0.18 for Python",
        ),
        ("ERROR: Cannot uninstall 'x'", "cannot be installed (ERROR: Cannot uninstall 'x')"),
        ("", "cannot be installed (exit status 1)"),
    ],
)
def test_prepare_turns_what_pip_says_into_one_sentence(
    setup: SetUp, words: str, sentence: str
) -> None:
    setup.pip(f"echo noise; echo {shlex.quote(words)} >&2; echo more noise; exit 1")
    status, lines = setup.run()
    assert status == 2
    assert len(lines) == 2, "one line that it begins, one why it failed"
    assert sentence in lines[1]
    assert not setup.ready.exists()


def test_prepare_says_that_the_package_index_cannot_be_reached(setup: SetUp) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take the port
        status, lines = setup.run(
            PYTHON=sys.executable,
            PIP_CONFIG_FILE=os.devnull,
            PIP_INDEX_URL=f"http://127.0.0.1:{refusing.getsockname()[1]}/simple",
            PIP_NO_CACHE_DIR="1",
            PIP_RETRIES="1",
        )
    assert (status, len(lines)) == (2, 2)
    assert "the package index cannot be reached" in lines[1]
    assert lines[1].endswith(f"{setup.tree}/.venv/pip.log")
    assert "Connection refused" in (setup.tree / ".venv" / "pip.log").read_text()


def test_prepare_leaves_a_complete_environment_alone(setup: SetUp) -> None:
    assert setup.run()[0] == 0
    before = setup.ready.stat().st_mtime_ns
    (setup.bin / "python3").unlink()  # it needs none to see that nothing is to be done
    assert setup.run() == (0, [])
    assert setup.pip_calls() == 1
    assert setup.ready.stat().st_mtime_ns == before


def test_prepare_installs_a_changed_pyproject_over_what_is_there(setup: SetUp) -> None:
    setup.run()
    kept = setup.tree / ".venv" / "kept"
    kept.touch()
    with (setup.tree / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    status, _ = setup.run()
    assert (status, setup.pip_calls(), kept.exists()) == (0, 2, True)
    assert setup.run() == (0, [])


@pytest.mark.parametrize("harm", ["interpreter", "moved", "chosen", "unmarked"])
def test_prepare_makes_an_unfit_environment_anew(setup: SetUp, harm: str) -> None:
    setup.run()
    (setup.tree / ".venv" / "stale").touch()
    chosen = {}
    if harm == "interpreter":
        (setup.tree / ".venv" / "bin" / "python").unlink()
    elif harm == "moved":
        setup = SetUp(setup.tree.rename(setup.tree.with_name("moved")), setup.bin)
    elif harm == "chosen":
        chosen["PYTHON"] = str(setup.python("another"))
    else:
        setup.ready.unlink()
    status, _ = setup.run(**chosen)
    assert (status, setup.pip_calls()) == (0, 2)
    assert setup.ready.exists()
    assert not (setup.tree / ".venv" / "stale").exists()


class HangingPip:
    """A pip that says when it is under way, and then waits until it is released or ended.

    Everything that .ci/prepare starts holds the pipe `said` open, so its end is their end.
    """

    def __init__(self, setup: SetUp) -> None:
        self.said, said = os.pipe()
        hold, self._hold = os.pipe()
        setup.pip(f"echo x >.venv/half; echo x >/dev/fd/{said}; cat /dev/fd/{hold}; {INSTALLS}")
        self.process = setup.start(pass_fds=(said, hold))
        os.close(said)
        os.close(hold)
        assert self.hear() == b"x\n"

    def hear(self) -> bytes:
        """Return what pip says next, nothing if no process is left that could."""
        ready, _, _ = select.select([self.said], [], [], DEADLINE)
        assert ready, "neither a word nor an end"
        return os.read(self.said, 100)

    def release(self) -> None:
        """Let pip end by itself."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def close(self) -> None:
        self.release()
        os.close(self.said)
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)


@pytest.fixture
def hanging(setup: SetUp) -> Iterator[HangingPip]:
    """Start a set-up that has come as far as pip, and hangs there."""
    pip = HangingPip(setup)
    yield pip
    pip.close()


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_set_up_leaves_no_process_and_is_repaired(
    setup: SetUp, hanging: HangingPip, interruption: signal.Signals
) -> None:
    hanging.process.send_signal(interruption)
    assert hanging.process.wait(DEADLINE) == 128 + interruption
    assert hanging.hear() == b""
    assert not setup.ready.exists()
    setup.pip(INSTALLS)
    assert setup.run()[0] == 0
    assert setup.ready.exists()
    assert not (setup.tree / ".venv" / "half").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_set_up_waits_for_the_first_and_what_it_started(
    setup: SetUp, hanging: HangingPip, killed: bool
) -> None:
    if killed:
        hanging.process.kill()
        hanging.process.wait(DEADLINE)
    with setup.start() as second:
        assert second.stderr is not None
        told, _, _ = select.select([second.stderr], [], [], DEADLINE)
        assert told
        assert "another set-up of this folder is under way" in second.stderr.readline()
        setup.pip(INSTALLS)
        hanging.release()
        second.communicate(timeout=DEADLINE)
    assert second.returncode == 0
    assert setup.ready.exists()
    # What a killed set-up left is made anew; what a complete one left is taken as it is.
    assert setup.pip_calls() == (2 if killed else 1)
    assert (setup.tree / ".venv" / "half").exists() is not killed


# ---- Makefile ---------------------------------------------------------------------------------


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """Copy the Makefile beside programs that only note what they were asked, and fail at doctor."""
    tree = tmp_path / "it's a tree"
    commands = tree / ".venv" / "bin"
    commands.mkdir(parents=True)
    (tree / ".ci").mkdir()
    shutil.copy(TOP / "Makefile", tree)
    for path in (tree / ".ci" / "prepare", *(commands / name for name in ASKED)):
        path.write_text('#!/bin/sh\necho "${0##*/} $*" >>asked\n[ "$1" != doctor ]\n')
        path.chmod(0o755)
    return tree / "Makefile"


ASKED = ("mypy", "prctlmm-lab", "pytest", "ruff")


@pytest.mark.parametrize(
    ("goal", "asked"),
    [
        ("lab", ["prepare", "prctlmm-lab doctor --brief", "prctlmm-lab lab"]),
        ("check", ["prepare", "ruff check", "ruff format --check", "mypy"]),
        ("test", ["prepare", "ruff check", "ruff format --check", "mypy", "pytest -n 2"]),
    ],
)
def test_make_asks_in_this_order_wherever_it_is_called(
    makefile: Path, goal: str, asked: list[str]
) -> None:
    subprocess.run(["make", "-f", makefile, goal], cwd="/", check=True, timeout=DEADLINE)
    lines = (makefile.parent / "asked").read_text().splitlines()
    assert [line.strip() for line in lines] == asked


def test_make_alone_explains_every_goal(makefile: Path) -> None:
    told = subprocess.run(
        ["make", "-f", makefile], cwd="/", check=True, timeout=DEADLINE, capture_output=True
    ).stdout.decode()
    phony = re.search(r"^\.PHONY:(.*)$", makefile.read_text(), re.MULTILINE)
    assert phony is not None
    goals = set(phony[1].split()) - {"help", "prepare"}
    assert set(re.findall(r"^make (\w+)", told, re.MULTILINE)) == goals
    assert not (makefile.parent / "asked").exists()


# ---- imports ----------------------------------------------------------------------------------

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "words": set(),
    "kernel": {"errors"},
    "specimen": {"errors", "kernel"},
    "witnesses": {"errors", "words", "kernel", "specimen"},
    "experiments": {"errors", "words", "kernel", "specimen", "witnesses"},
    "restore": {"errors", "words", "kernel", "specimen", "witnesses", "experiments"},
    "atlas": {"errors", "words", "kernel", "specimen", "witnesses", "experiments", "restore"},
}
MAY_IMPORT["views"] = {*MAY_IMPORT["restore"], "restore", "atlas"}
MAY_IMPORT["course"] = {*MAY_IMPORT["views"], "views"}
MAY_IMPORT["commands"] = {*MAY_IMPORT["course"], "course"}
MAY_IMPORT |= {"cli": {"errors", "commands"}, "__main__": {"cli"}}
MAY_IMPORT["__init__"] = MAY_IMPORT["commands"]
"""Of each part of the package, the parts that it may import beside itself."""


@dataclass(frozen=True)
class Import:
    """One module that another one names in an import statement."""

    place: str
    importer: str
    imported: str
    at_once: bool
    """It is imported with the importer: neither in a function nor for a type checker only."""


class ImportReader(ast.NodeVisitor):
    """Collect the imports of one module, those inside functions included."""

    def __init__(self, name: str, path: Path, package: frozenset[str]) -> None:
        self.name, self.path, self.package = name, path, package
        self.found: list[Import] = []
        self.later = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            here = self.name.split(".")
            if self.path.name != "__init__.py":
                here.pop()
            here = here[: len(here) - node.level + 1]
            base = ".".join([*here, *([base] if base else [])])
        for alias in node.names:
            module = f"{base}.{alias.name}"
            if module in self.package:
                self._add(node, module)
            elif (base, alias.name) != ("prctlmm_lab", "__version__"):
                self._add(node, base)

    def visit_If(self, node: ast.If) -> None:
        typing_only = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        self._visit_later(node.body) if typing_only else [self.visit(each) for each in node.body]
        for each in node.orelse:
            self.visit(each)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_later(node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_later(node.body)

    def _visit_later(self, body: list[ast.stmt]) -> None:
        self.later += 1
        for each in body:
            self.visit(each)
        self.later -= 1

    def _add(self, node: ast.stmt, imported: str) -> None:
        place = f"{self.path.name}:{node.lineno}"
        self.found.append(Import(place, self.name, imported, not self.later))


def modules(top: Path) -> dict[str, Path]:
    """Return the modules of the package below a folder, by their full name."""
    found = {}
    for path in sorted((top / "prctlmm_lab").rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(top: Path) -> list[Import]:
    """Return every import in the package below a folder."""
    package = modules(top)
    found = []
    for name, path in package.items():
        reader = ImportReader(name, path, frozenset(package))
        reader.visit(ast.parse(path.read_bytes()))
        found += reader.found
    return found


def part(module: str) -> str:
    """Return the part of the package that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def upward(found: Sequence[Import]) -> list[str]:
    """Return the imports that point up or right in the house."""
    return [
        f"{each.place}: {each.importer} imports {each.imported}"
        for each in found
        if each.imported.split(".")[0] == "prctlmm_lab"
        and part(each.imported) != part(each.importer)
        and part(each.imported) not in MAY_IMPORT[part(each.importer)]
    ]


BARE_PARTS = {"kernel", "specimen", "commands", "cli"}
BARE_EXPERIMENTS = ("claims", "conformance", "experiment", "recipe", "record")
"""What must run on a bare Python; a command imports what more it needs once it is called."""


def core_modules(found: Sequence[Import], names: Sequence[str]) -> list[str]:
    """Return the modules that a guest with a bare Python needs, and what they import at once."""
    core = [
        name
        for name in names
        if part(name) in BARE_PARTS
        or name in {f"prctlmm_lab.experiments.{each}" for each in BARE_EXPERIMENTS}
    ]
    for name in core:
        more = {each.imported for each in found if each.importer == name and each.at_once}
        core += sorted(more.intersection(names).difference(core))
    return core


def outside_the_standard_library(found: Sequence[Import], core: Sequence[str]) -> list[str]:
    """Return the imports that a bare Python could not follow."""
    allowed = {*sys.stdlib_module_names, "prctlmm_lab"}
    return [
        f"{each.place}: {each.importer} imports {each.imported}"
        for each in found
        if each.at_once and each.importer in core and each.imported.split(".")[0] not in allowed
    ]


def test_imports_point_left_and_down_only() -> None:
    assert upward(imports(TOP)) == []


def test_every_part_of_the_house_is_known() -> None:
    assert {part(name) for name in modules(TOP)} <= MAY_IMPORT.keys()


def test_core_modules_import_the_standard_library_only() -> None:
    found, names = imports(TOP), list(modules(TOP))
    core = core_modules(found, names)
    assert set(BARE_EXPERIMENTS) <= {name.split(".")[-1] for name in core}
    assert outside_the_standard_library(found, core) == []


def python(program: str, *options: str) -> str:
    """Run a program in an interpreter of its own, with the package on its path."""
    told = subprocess.run(
        [
            sys.executable,
            *options,
            "-c",
            f"import sys; sys.path.insert(0, {str(TOP)!r})\n{program}",
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_core_modules_run_on_a_bare_python() -> None:
    core = core_modules(imports(TOP), list(modules(TOP)))
    python(f"import {', '.join(core)}", "-I", "-S")


SHOW_HELP = """
from prctlmm_lab.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
"""


@pytest.mark.parametrize(
    ("program", "seen"),
    [("import prctlmm_lab", "prctlmm_lab"), (SHOW_HELP, "prctlmm_lab.commands.fuzz")],
    ids=["import", "help"],
)
def test_starting_loads_nothing_heavy(program: str, seen: str) -> None:
    loaded = python(f"{program}\nprint(*sys.modules)").split()
    assert seen in loaded
    heavy = {"IPython", "ipywidgets", "matplotlib", "numpy", "pandas", "pydantic", "tqdm"}
    assert heavy.intersection(loaded) == set()


WRONG_HOUSE = {
    "__init__.py": "",
    "cli.py": "from prctlmm_lab.commands import run",
    "commands/__init__.py": "",
    "commands/run.py": "from prctlmm_lab.views import places\nfrom .. import cli",
    "kernel/__init__.py": "import prctlmm_lab.views",
    "kernel/abi.py": "from ..specimen import process",
    "kernel/procfs.py": "from prctlmm_lab import views, __version__",
    "specimen/__init__.py": "from .. import experiments",
    "specimen/process.py": "def late():\n    import prctlmm_lab.experiments, numpy",
    "experiments/__init__.py": "from typing import TYPE_CHECKING",
    "experiments/record.py": "if TYPE_CHECKING:\n    import pandas, prctlmm_lab.cli",
    "experiments/recipe.py": "from . import formula\nimport prctlmm_lab.commands.run",
    "experiments/formula.py": "class Formula:\n    if f():\n        import pydantic.v1",
    "views/__init__.py": "from prctlmm_lab import run",
}
"""A house with each kind of wrong import once, and what looks wrong but is not."""


@pytest.fixture
def wrong_house(tmp_path: Path) -> Path:
    for name, text in WRONG_HOUSE.items():
        path = tmp_path / "prctlmm_lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_each_upward_import_would_be_found(wrong_house: Path) -> None:
    assert sorted(upward(imports(wrong_house))) == [
        "__init__.py:1: prctlmm_lab.kernel imports prctlmm_lab.views",
        "__init__.py:1: prctlmm_lab.specimen imports prctlmm_lab.experiments",
        "__init__.py:1: prctlmm_lab.views imports prctlmm_lab",
        "abi.py:1: prctlmm_lab.kernel.abi imports prctlmm_lab.specimen.process",
        "process.py:2: prctlmm_lab.specimen.process imports prctlmm_lab.experiments",
        "procfs.py:1: prctlmm_lab.kernel.procfs imports prctlmm_lab.views",
        "recipe.py:2: prctlmm_lab.experiments.recipe imports prctlmm_lab.commands.run",
        "record.py:2: prctlmm_lab.experiments.record imports prctlmm_lab.cli",
        "run.py:2: prctlmm_lab.commands.run imports prctlmm_lab.cli",
    ]


def test_each_import_from_elsewhere_would_be_found(wrong_house: Path) -> None:
    found = imports(wrong_house)
    core = core_modules(found, list(modules(wrong_house)))
    assert "prctlmm_lab.experiments.formula" in core, "recipe imports it at once"
    assert outside_the_standard_library(found, core) == [
        "formula.py:3: prctlmm_lab.experiments.formula imports pydantic.v1",
    ]
