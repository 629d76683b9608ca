"""Data flows one way: datasets <- rl <- pretrain <- pipeline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["datasets", "rl", "pretrain", "pipeline"]


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): imported_packages(f) & above for f in files}
    assert not {name: packages for name, packages in wrong.items() if packages}


def test_the_contract_needs_neither_torch_nor_numba() -> None:
    code = (
        "import sys, datasets.contract.actions, datasets.contract.floats, datasets.contract.line,"
        " datasets.contract.config; print({'torch', 'numba', 'lightning'} & set(sys.modules))"
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
