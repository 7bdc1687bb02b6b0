"""Tasks: what is learned from which data by which network, how data is prepared and what is made of a run.

What `__all__` names lies in `systems.catalogue`, which brings torch and all that learns and draws. It is
imported when one of the names is asked for, so that preparing data, here and in its processes, does not wait
for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from systems.catalogue import DRAW, ECG_ALONE, EXPORT, JUDGE, PREDICT, TASKS, WORDS, Task, find_task

__all__ = ["DRAW", "ECG_ALONE", "EXPORT", "JUDGE", "PREDICT", "TASKS", "WORDS", "Task", "find_task"]


def __getattr__(name: str) -> Any:
    """Return what the catalogue holds, the first time it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("systems.catalogue"), name)
