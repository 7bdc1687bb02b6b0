"""Write a trained network to one file that runs without this code, and check that its outputs agree.

    python export.py                                           # the newest run, to ONNX
    python export.py --checkpoint checkpoints/<run> --fold 0   # one fold's network
    python export.py --checkpoint checkpoints/<run> --format torch --out pacfnet.pt2

The file takes prepared beats, any number at once: ecg and pcg, (batch, 1, points) each, of which a network
of one signal takes that one; one trained with --modality-dropout takes has_ecg and has_pcg, (batch,), too.
It returns the logits (batch, 2), normal and abnormal, and the probability of abnormal (batch,). It holds its
model, inputs, classes, threshold and checkpoint as metadata. docs/inference.md has an example.

Before the file is kept, it is checked with random beats in batches of several sizes: one that differs from
the network by more than 0.0001 in any output is deleted. ONNX needs
`pip install onnx onnxscript onnxruntime`. Research software, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.command_line import read_settings
from common.script import run_script
from config import ExportSettings


def main(arguments: Sequence[str] | None = None) -> Path:
    """Export what the command line names; return the file."""
    settings = read_settings(ExportSettings, sys.argv[1:] if arguments is None else arguments, __doc__)
    from learning.devices import set_threads
    from systems.base.exporting import (  # torch: not before, so that --help is quick
        CHECKED_BATCHES,
        TOLERANCE,
        choose_checkpoint,
        choose_file,
        open_exportable,
        require,
        write_export,
    )

    set_threads(settings.threads)
    checkpoint = choose_checkpoint(settings)
    path, form = choose_file(settings, checkpoint)
    require(form)
    exportable = open_exportable(checkpoint)
    metadata = exportable.metadata
    print(f"{metadata['model']} of run {metadata['run']}, fold {metadata['fold']} ({checkpoint}).")
    if settings.dry_run:
        print(f"Would write {path}.")
        return path
    difference = write_export(exportable, path, form)
    sizes = ", ".join(str(size) for size in CHECKED_BATCHES)
    print(
        f"Largest difference from the network, random beats in batches of {sizes}: {difference:.1e} "
        f"({TOLERANCE:g} is allowed)."
    )
    print(f"Written to {path}, {path.stat().st_size / 1e6:.1f} MB.\n\n{metadata['notice']}")
    return path


if __name__ == "__main__":
    run_script(main)
