"""Devices and precision: which is chosen, and what is refused with which words."""

import contextlib
import os

import pytest
import torch

from common.errors import UserError
from learning.devices import (
    autocast,
    bfloat16_is_sound,
    choose_device,
    choose_layout,
    choose_precision,
    computes_bfloat16,
    describe_machine,
    precision_note,
    processor_name,
    rows_at_once,
    set_threads,
)

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_cuda_the_cpu(no_gpu, name):
    assert choose_device(name) == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_that_is_not_there(no_gpu, name):
    with pytest.raises(UserError, match="no CUDA device here that torch can use: use --device cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", "tpu:0", ""])
def test_unknown_device(name):
    with pytest.raises(UserError, match=rf"no device '{name}': use auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "local_rank", "chosen"),
    [
        ("auto", 0, "cuda:0"),
        ("auto", 1, "cuda:1"),
        ("cuda", 0, "cuda:0"),
        ("cuda", 1, "cuda:1"),
        ("cuda:1", 0, "cuda:1"),
        ("cpu", 1, "cpu"),
    ],
)
def test_with_two_gpus_each_process_has_its_own(two_gpus, name, local_rank, chosen):
    assert choose_device(name, local_rank) == torch.device(chosen)


def test_gpu_beyond_those_here(two_gpus):
    with pytest.raises(UserError, match="There is no cuda:2: 2 CUDA devices are here"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)]
)
def test_bfloat16_from_ampere_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bfloat16(torch.device("cuda", 0)) is native


@pytest.mark.parametrize(
    ("capabilities", "native"), [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)]
)
def test_bfloat16_on_a_cpu_that_has_it(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr("learning.devices.bfloat16_is_sound", lambda device: True)
    assert computes_bfloat16(CPU) is native
    assert choose_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_bfloat16_is_not_assumed_where_torch_cannot_say(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computes_bfloat16(CPU) is False


def test_precision_that_was_asked_for():
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("error", "seconds", "sound"), [(0.0, 3.0, True), (0.0, 5.0, False), (1.0, 0.3, False), (0.0, 0.5, True)]
)
@pytest.mark.parametrize("kernel", [7, 16])
def test_bfloat16_is_tried_before_it_is_taken(monkeypatch, error, seconds, sound, kernel):
    clock = [0.0]
    convolve = torch.nn.functional.conv2d

    def convolution(signals, weights):
        half = signals.dtype == torch.bfloat16 and weights.shape[-1] == kernel
        clock[0] += seconds if half else 1.0
        return convolve(signals.float(), weights.float()) + error * half

    monkeypatch.setattr("learning.devices.functional.conv2d", convolution)
    monkeypatch.setattr("learning.devices.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("learning.devices.computes_bfloat16", lambda device: True)
    bfloat16_is_sound.cache_clear()
    assert choose_precision("auto", CPU) == (torch.bfloat16 if sound else torch.float32)
    assert ("so float32 is taken" in precision_note("auto", CPU)) is not sound
    assert ("use --precision float32" in precision_note("bfloat16", CPU)) is not sound
    bfloat16_is_sound.cache_clear()


def test_a_precision_that_is_emulated_is_said(monkeypatch):
    monkeypatch.setattr("learning.devices.computes_bfloat16", lambda device: device.type == "cuda")
    monkeypatch.setattr("learning.devices.bfloat16_is_sound", lambda device: True)
    assert "this CPU has no instructions for bfloat16" in precision_note("bfloat16", CPU)
    assert precision_note("float32", CPU) == precision_note("auto", CPU) == ""
    assert precision_note("bfloat16", torch.device("cuda")) == ""


@pytest.mark.parametrize(
    ("device", "capability", "width", "layout"),
    [
        ("cpu", "AVX2", 2100, "plain"),
        ("cpu", "AVX2", 100, "channels-last"),
        ("cpu", "AVX512", 2100, "channels-last"),
        ("cuda", "AVX2", 2100, "channels-last"),
    ],
)
def test_layout_by_processor_and_size(monkeypatch, device, capability, width, layout):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = torch.nn.Linear(width, width, device="meta")
    assert choose_layout("auto", model, torch.device(device)) == layout
    assert choose_layout("plain", model, torch.device(device)) == "plain"


def test_autocast_computes_in_that_precision():
    layer, values = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with autocast(CPU, torch.bfloat16):
        assert layer(values).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert layer(values).dtype == torch.float32
    assert isinstance(autocast(CPU, torch.float32), contextlib.nullcontext)
    assert layer.weight.dtype == torch.float32


def test_threads():
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        words = describe_machine(CPU)
        assert words.startswith(f"1 CPU thread ({processor_name()}), torch 2.")
        assert torch.backends.cpu.get_cpu_capability() in words
        set_threads(0)
        assert 1 <= torch.get_num_threads() <= (os.cpu_count() or 1)
    finally:
        torch.set_num_threads(before)


def test_a_cpu_evaluates_fewer_samples_at_once():
    assert [rows_at_once(requested, CPU) for requested in (1, 64, 256)] == [1, 64, 64]
    assert rows_at_once(256, torch.device("cuda")) == 256


@pytest.mark.parametrize(
    ("count", "variables", "expected"),
    [
        (3, {}, [3]),
        (3, {"OMP_NUM_THREADS": "1"}, [3]),
        (0, {}, [6]),
        (0, {"OMP_NUM_THREADS": "1"}, []),
        (0, {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, [3]),
        (0, {"LOCAL_WORLD_SIZE": "8"}, [1]),
    ],
)
def test_threads_of_a_process(monkeypatch, count, variables, expected):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    set_threads(count)
    assert found == expected
