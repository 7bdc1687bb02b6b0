"""Tasks, by the name a user types: what is learned from which data by which network."""

from __future__ import annotations

from tasks.ecg_pcg import EcgPcg

Task = EcgPcg
TASKS: dict[str, Task] = {task.name: task for task in (EcgPcg(),)}
