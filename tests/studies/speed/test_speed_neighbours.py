import multiprocessing

import torch

from studies.speed import neighbours
from systems.ecg_pcg.settings import ModelSettings


def test_a_row_for_each_neighbourhood_and_number_of_threads(monkeypatch):
    beside: list[int] = []
    others = len(multiprocessing.active_children())

    def seconds(*_):
        beside.append(len(multiprocessing.active_children()) - others)
        return len(beside)

    monkeypatch.setattr(neighbours, "_seconds", seconds)
    threads = torch.get_num_threads()
    rows = neighbours.measure(busy=(0, 1), steps=1, settings=ModelSettings(width=8, points=250))
    assert beside == [0, 0, 0, 1, 1, 1], "processes are busy while the steps are taken"
    assert len(multiprocessing.active_children()) == others
    assert torch.get_num_threads() == threads
    assert [row["case"].split(", ", 2)[2] for row in rows] == [
        f"beside {number} busy, {name}"
        for number in (0, 1)
        for name in ("1 thread", "all threads", "chosen threads")
    ]
    assert [row["ratio"] for row in rows] == [1, 1 / 2, 1 / 3, 1, 4 / 5, 4 / 6]
