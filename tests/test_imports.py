"""Data flows one way: datasets <- rl <- pretrain <- pipeline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_graph import PACKAGES, ROOT, Graph, circles, import_graph, modules

TIERS = (
    ("config",),
    ("envs", "network"),
    ("replay", "transfer"),
    ("learning", "collecting", "evaluation"),
    ("run", "reporting"),
    ("training",),
)
"""Rooms of `rl`: each imports from those above it in this list, and never from those below."""
SIBLINGS = {("reporting", "run")}
"""Imports between rooms of one tier: (who imports, what)."""
WIDE = ("datasets", "pipeline/commands", "rl/envs/sim")
"""Folders that may hold more than `MOST_FILES`; one has a file for each command."""
MOST_FILES = 14
TWINS = {"", "vis", "bc"}
"""Folders of `pretrain` whose files may mirror each other: both stages, and what they share."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph()


def arrows(graph: Graph) -> set[tuple[str, str]]:
    return {(name, target) for name, targets in graph.items() for target in targets}


def test_files_import_each_other_in_no_circle(graph: Graph) -> None:
    assert len(graph) > 150
    assert circles(graph) == []


def test_a_package_imports_only_those_below_it(graph: Graph) -> None:
    def rank(name: str) -> int:
        return PACKAGES.index(name.split(".")[0])

    assert [(a, b) for a, b in sorted(arrows(graph)) if rank(b) > rank(a)] == []


def test_a_room_of_rl_imports_only_those_below_it(graph: Graph) -> None:
    tier_of = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
    between = [
        (a, b, a.split(".")[1], b.split(".")[1])
        for a, b in sorted(arrows(graph))
        if a.startswith("rl.") and b.startswith("rl.") and a.split(".")[1] != b.split(".")[1]
    ]
    assert [(a, b) for a, b, above, below in between if tier_of[below] > tier_of[above]] == []
    beside = {(x, y) for _, _, x, y in between if tier_of[x] == tier_of[y]}
    assert beside <= SIBLINGS
    assert not {(y, x) for x, y in SIBLINGS} & SIBLINGS


def test_recording_and_importing_know_no_command(graph: Graph) -> None:
    rooms = ("recording", "importing", "exporting")
    wrong = [
        (a, b)
        for a, b in sorted(arrows(graph))
        if b.startswith("pipeline.commands") and a.split(".")[1:2] in [[room] for room in rooms]
    ]
    assert wrong == []


def test_rl_holds_rooms_only() -> None:
    assert [path.name for path in (ROOT / "rl").glob("*.py")] == ["__init__.py"]
    rooms = {path.parent.name for path in (ROOT / "rl").glob("*/__init__.py")}
    assert rooms == {room for rooms in TIERS for room in rooms}


def test_no_folder_holds_many_files() -> None:
    folders: dict[str, int] = {}
    for path in modules().values():
        if path.name != "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            folders[folder] = folders.get(folder, 0) + 1
    wide = {name: count for name, count in folders.items() if count > MOST_FILES}
    assert wide.keys() <= set(WIDE)


def test_a_package_holds_no_two_files_of_one_name() -> None:
    files: dict[tuple[str, str], list[str]] = {}
    for path in modules().values():
        parts = path.relative_to(ROOT).parts
        if path.name != "__init__.py":
            files.setdefault((parts[0], path.stem), []).append("/".join(parts[1:-1]))
    twice = {
        (package, name): folders
        for (package, name), folders in files.items()
        if len(folders) > 1 and not (package == "pretrain" and set(folders) <= TWINS)
    }
    assert twice == {}


def test_no_two_classes_have_one_name() -> None:
    classes: dict[str, list[str]] = {}
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert len(classes) > 150
    twice = {name: files for name, files in classes.items() if len(files) > 1}
    assert twice == {}


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    sources = {
        "datasets/__init__.py": "",
        "datasets/a.py": "def f():\n    from datasets import b\n",
        "datasets/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rl.c\n",
        "rl/__init__.py": "",
        "rl/c.py": "from .d import x\n",
        "rl/d.py": "from datasets.a import f\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = import_graph(tmp_path)
    assert graph["datasets.a"] == {"datasets.b"}
    assert circles(graph) == [["datasets.a", "datasets.b", "rl.c", "rl.d"]]


@pytest.mark.parametrize("package", ["datasets.contract", "rl.config", "pipeline.commands"])
def test_a_package_loads_neither_torch_nor_numba(package: str) -> None:
    """`--help` and `--show-schedules` answer at once."""
    names = [name for name in modules() if name.startswith(f"{package}.")]
    assert len(names) > 4
    code = (
        f"import sys, {', '.join(names)};"
        "print({'torch', 'numba', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_no_dependency_imports_the_name_datasets() -> None:
    """Hugging Face has a package of that name too: nothing that rulka installs may mean it."""
    code = (
        "import sys, torch, torchvision, lightning, tensorboard, gymnasium, h5py, matplotlib;"
        "from torch.utils.tensorboard import SummaryWriter;"
        "print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
