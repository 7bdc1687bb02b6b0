"""Checkpoints: plain Python types and tensors, written whole or not at all, read without pickle's powers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from common.errors import UserError
from common.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""2: networks of beats pad "same" and normalize with the published epsilon, as those of 1 did not."""
BEST, LAST = "best.pt", "last.pt"


class Checkpoint(TypedDict):
    """What a checkpoint of one fold holds, in plain types and tensors."""

    format: int
    task: str
    run: str
    fold: int
    """-1: a final fit on everything."""
    protocol: str
    settings: dict[str, Any]
    """Those of training.py, nested as in `common.command_line.to_plain`."""
    inputs: NotRequired[dict[str, Any]]
    """What the model was built with beside the settings."""
    label_share: NotRequired[float]
    """Share of abnormal among the samples that were learned from."""
    parts: Tensor
    """Part of each sample in this fold, shape (N,): see `datasets.splits.Fold.parts`."""
    trained_on: dict[str, list[Any]]
    """``session``, ``recording``, ``database`` where known, and each recording's SHA-256, ``content``."""
    precision: NotRequired[str]
    """``float32`` or ``bfloat16``: what the forward passes of training were computed in."""
    cache: dict[str, Any]
    """``Cache.describe()`` of the cache it was trained from."""
    provenance: dict[str, str]
    parents: list[dict[str, Any]]
    """Runs that it started from: ``kind``, ``run``, ``sha256``, and what they were trained on as above."""
    model: dict[str, Tensor]
    """Weights, by the names of the module's state."""
    progress: dict[str, Any]
    """Fields of `learning.loop.Progress`."""
    optimizer: NotRequired[dict[str, Any]]
    """In ``last.pt`` alone, as ``schedule``."""
    schedule: NotRequired[dict[str, Any]]
    threshold: NotRequired[float]
    """In ``best.pt`` of a finished fold."""
    test: NotRequired[dict[str, float]]
    """Scores of the fold's test part, ``<unit>/<name>``, in ``best.pt`` of a finished fold."""
    validation: NotRequired[dict[str, Any]]
    """Errors on the validation part, of runs of ecg-phenotypes."""
    calibration: NotRequired[dict[str, list[float]]]
    """Intercept and slope for each kind of input, of the model that comes with the code."""
    left_out: NotRequired[dict[str, Any]]
    """What was measured on databases left out, of a model that is shipped."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint to a temporary file and put it in place.

    Raises
    ------
    CheckpointError
        If the disk refuses; the checkpoint that was there before stays.
    """
    import torch

    try:
        with replacing(path) as temporary:
            torch.save({"format": FORMAT, **content}, temporary)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError when the disk is full
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({str(error).splitlines()[0]}). Make room, or allow "
            "writing there; what was saved before is kept, and the same command with --resume goes on."
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    CheckpointError
        If the file is absent, damaged, holds more than plain types and tensors, or is of another format.
    """
    import torch  # not before a checkpoint is read, so that --help answers at once

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}. Train one with training.py.") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({reason}). Train that fold again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointError(
            f"The checkpoint {path} has format {found}, and this version reads {FORMAT}: "
            "use the version of the code it was written with, or train again."
        )
    return cast(Checkpoint, content)


@contextlib.contextmanager
def must_fit(path: Path) -> Iterator[None]:
    """Turn what goes wrong when a checkpoint of another version is used into a `CheckpointError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {path} does not fit this version of the code ({reason}): "
            "use the version it was written with, or train again."
        ) from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint, by which a child names its parent."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


_NO_CODE = (":(top,exclude)results", ":(top,exclude)docs", ":(top,exclude)*.md")
_CHANGED = ("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *_NO_CODE)


@functools.cache
def provenance() -> dict[str, str]:
    """Return versions of Python and the libraries, and the commit of the code in a git checkout."""
    found = {"python": platform.python_version()}
    found |= {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    return found | {"commit": commit_of(Path(__file__).parent)}


def commit_of(folder: Path) -> str:
    """Return the commit of a checkout, ``-dirty`` where more than results and text has changed since."""
    try:
        name, changed = (
            subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (("describe", "--always", "--abbrev=12"), _CHANGED)
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def changed_since(before: dict[str, str]) -> list[str]:
    """Return a line for each version, and the commit, that differs from those a checkpoint was made with.

    Parameters
    ----------
    before : dict of str to str
        What `provenance` returned then.
    """
    now = provenance()
    lines = [
        f"Note: trained with {name} {before[name]}, evaluated with {now[name]}; last digits may differ."
        for name in _differing(before, now)
    ]
    commit = before.get("commit", "")
    if commit.endswith("-dirty"):
        code = f"code changed after commit {commit.removesuffix('-dirty')}"
        lines.append(f"Note: trained with {code}; which changes is not stored.")
    return lines


def changed_data(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each way in which prepared data differ from those a checkpoint was made from.

    Parameters
    ----------
    before, now : dict
        ``Cache.describe()`` then and now; what was not stored then is not compared.
    """
    if before.get("source_files", now["source_files"]) != now["source_files"]:
        lines = [f"Note: evaluated on other raw files (of {now['source']}) than trained on."]
    else:
        changed = _differing(before.get("tables", {}), now["tables"])
        lines = [f"Note: {name} of the prepared data is not the one trained on." for name in changed]
    for part in ("settings", "versions"):
        old, new = before.get(part, {}), now[part]
        lines += [
            f"Note: evaluated on data prepared with {name} {new[name]}, trained on {old[name]}."
            for name in _differing(old, new)
        ]
    return lines


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of what is in both, and not the same."""
    return [name for name in before if name in now and before[name] != now[name]]
