"""What a script does not import: a prediction needs nothing that draws, fits or logs, --help no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNNEEDED = ("captum", "matplotlib", "openpyxl", "sklearn", "tensorboard")
"""Libraries that take a quarter of the time of a prediction where they are imported."""


def imported(code: str) -> set[str]:
    """Return the libraries that a program has imported at its end."""
    show = "import sys; print('\\n', *{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(found.stdout.splitlines()[-1].split())


def test_a_prediction_imports_only_what_it_needs(simulated_raw):
    by_size = sorted((simulated_raw / "training-a").glob("*.dat"), key=lambda path: path.stat().st_size)
    words = [str(path.with_suffix("")) for path in by_size[-3:]]  # of which one may be refused
    found = imported(f"import predict\ntry:\n    predict.main({words})\nexcept SystemExit:\n    pass")
    assert "torch" in found
    assert found.isdisjoint(UNNEEDED)


@pytest.mark.parametrize("script", ["training", "evaluate", "predict", "load_data", "export"])
def test_help_waits_for_no_library_that_computes(script):
    """OpenMP reads how its threads wait when torch is imported, and ``run_script`` says it before."""
    code = f"import {script}\ntry:\n    {script}.main(['--help'])\nexcept SystemExit:\n    pass"
    assert imported(code).isdisjoint({"torch", "pandas", "scipy", *UNNEEDED})


def test_an_evaluation_that_draws_nothing_imports_nothing_that_draws():
    found = imported("import systems.base.evaluation_run, systems.ecg_pcg.evaluate")
    assert "torch" in found
    assert "matplotlib" not in found
