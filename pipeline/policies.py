"""Finds the policy that a path means: a file, a folder of artifacts, or a run of stage 3."""

from pathlib import Path

import torch

from datasets.contract.errors import UserError
from rl.network.iqn import IQN
from rl.transfer.artifacts import IQN_FILE, META_FILE, Artifact, load_artifact

BEST_FOLDER = "best"


def find_policy_file(path: Path) -> Path:
    """The `iqn_bc.pt` that `path` stands for.

    Args:
        path: the file itself, a folder that holds it, or a run folder with a `best` folder.

    Raises:
        UserError: nothing there, or only parts of a policy.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; expected a run or an artifact")
    for folder in (path, path / BEST_FOLDER):
        if (folder / IQN_FILE).is_file():
            return folder / IQN_FILE
    if (path / META_FILE).exists():
        raise UserError(
            f"{path}: holds parts of a policy, but no {IQN_FILE}; only a whole policy can drive "
            "(train one with bc and use_full_iqn: true, or with rl)"
        )
    raise UserError(
        f"{path}: no {IQN_FILE} here or in its {BEST_FOLDER} folder; "
        "a run writes it after its first evaluation"
    )


def load_policy(path: Path) -> tuple[IQN, Artifact]:
    """Build the network of a whole policy, with its weights, ready to drive.

    Raises:
        UserError: see `find_policy_file` and `load_artifact`; tensors that do not fit.
    """
    artifact = load_artifact(find_policy_file(path))
    if artifact.network is None:
        raise UserError(f"{path}: its metadata names no network")
    network = IQN(artifact.network)
    try:
        network.load_state_dict(artifact.tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path}: not a whole policy ({str(error).splitlines()[-1].strip()})"
        ) from error
    return network.eval().requires_grad_(False), artifact


def limit_threads(threads: int) -> None:
    """Let torch use `threads` CPU threads; acting on small batches is faster with few."""
    torch.set_num_threads(threads)
