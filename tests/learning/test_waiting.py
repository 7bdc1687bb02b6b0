"""What a step does: nothing in it waits for the device, or makes a tensor on another one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "# waits for the device"
"""What stands beside a line of a step that waits nevertheless, with the reason."""
WAITS = ("item", "cpu", "numpy", "tolist", "nonzero")
"""Methods of a tensor that copy it to the CPU, or whose result has a size that only the device knows."""
STEPS = {
    "learning/loop.py": ("train_step", "clip_gradient"),
    "systems": ("step", "batch", "losses", "after_backward"),
    "models": ("forward", "losses", "update_ema"),
}
"""Functions that a step calls, by file or folder."""


def waits(call: ast.Call) -> bool:
    """Whether a call waits for the device: it reads a tensor, or makes one of numbers of the CPU."""
    called = call.func
    if isinstance(called, ast.Attribute):
        made = isinstance(called.value, ast.Name) and called.value.id == "torch"
        return called.attr in (("tensor", "from_numpy", "as_tensor") if made else WAITS)
    reads = isinstance(called, ast.Name) and called.id in ("float", "int", "bool")
    return reads and bool(call.args) and not isinstance(call.args[0], ast.Constant)


def found_in(text: str, functions: tuple[str, ...]) -> list[int]:
    """Return the lines of these functions that wait and do not say so."""
    lines = text.splitlines()
    parts = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name in functions
    ]
    calls = (node for part in parts for node in ast.walk(part) if isinstance(node, ast.Call))
    numbers = {call.lineno for call in calls if waits(call)}
    return sorted(number for number in numbers if MARK not in lines[number - 1])


def sources() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each file with the functions of it that a step calls."""
    for place, functions in STEPS.items():
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield file, functions


def test_no_step_waits_for_the_device():
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file, functions in sources()
        for number in found_in(file.read_text(encoding="utf-8"), functions)
    ]
    assert not found, f"{MARK}: <why> is missing, or the line waits needlessly"


@pytest.mark.parametrize(
    ("line", "waiting"),
    [
        ("loss.item()", True),
        ("loss.detach().cpu()", True),
        ("float(loss)", True),
        ("torch.tensor([1.0])", True),
        ("mask.nonzero()", True),
        (f"float(loss)  {MARK}: in validation only", False),
        ("loss.float()", False),
        ("torch.zeros(3, device=loss.device)", False),
        ("float('inf')", False),
    ],
)
def test_what_is_found(line, waiting):
    text = f"class Task:\n    def step(self, loss, mask):\n        return {line}\n"
    assert found_in(text, ("step",)) == ([3] if waiting else [])
    assert found_in(text, ("other",)) == []
