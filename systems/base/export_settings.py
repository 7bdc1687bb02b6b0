"""Settings of export.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ExportSettings:
    """Which network is exported, how and where to."""

    checkpoint: Path | None = None
    """A run's folder or one checkpoint file; default: the newest run under checkpoint_dir."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of checkpoints."""
    fold: int | None = None
    """Fold of the run whose network is exported, from 0; default: the final fit on everything (fold_all)
    where there is one, else the only fold. Folds are networks of their own: one file holds one."""
    format: Literal["onnx", "torch"] | None = None
    """onnx: runs by onnxruntime, in any language. torch: a program of torch.export, runs by torch without
    this code. Default: what the ending of --out says, else onnx."""
    out: Path | None = None
    """File to write, .onnx or .pt2; one that is there is replaced. Default: beside the checkpoint, of the
    same name."""
    threads: int = 0
    """CPU threads of torch and onnxruntime while the file is checked; 0: one a core."""
    dry_run: bool = False
    """Say what would be written; write nothing."""
