"""What a machine has, and what follows from it for quantised models. Nothing leaves the machine.

    found = examine()
    found.faults        what stands against quantising and running a model here; nothing if all is well
    found.remarks       what the processor means for speed and accuracy

The last word has a trial: a model of one layer is quantised and run.
"""

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from onnxmpq.disk.leftovers import temporary_folder
from onnxmpq.errors import OnnxmpqError, RuntimeMissingError
from onnxmpq.machine import Processor, memory_bytes, processor, usable_cores
from onnxmpq.options import VerifyOptions
from onnxmpq.version import __version__

PACKAGES = ("onnx", "onnx-ir", "numpy", "scipy", "networkx", "highspy", "onnxruntime", "onnxruntime-gpu", "openvino")
"""Distributions whose versions are told."""

EXTRAS = {
    "cpu": (("onnxruntime",), "measuring, and running exports"),
    "gpu": (("onnxruntime-gpu",), "the same on NVIDIA; instead of cpu, not beside it"),
    "openvino": (("openvino",), "running exports of the openvino target"),
    "qonnx": (("qonnx",), "running exports of the qonnx target"),
    "qnn": (("onnxruntime-qnn",), "running exports of the qnn target, on its emulator for x86 Linux"),
    "dask": (("distributed",), "measuring on a cluster"),
    "images": (("pillow",), "folders of images as samples"),
}
"""What ``onnxmpq[EXTRA]`` installs, and for what."""


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part: what it is for, whether it is there, and the command that installs it."""

    name: str
    purpose: str
    installed: bool
    install: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is, what follows, and what is wrong."""

    versions: dict[str, str]
    system: str
    providers: tuple[str, ...]
    devices: dict[str, str]
    processor: Processor
    cores: int
    usable_cores: int
    memory_bytes: int | None
    free_memory_bytes: int | None
    extras: tuple[Extra, ...]
    remarks: tuple[str, ...]
    trial: str
    faults: tuple[str, ...]


def examine() -> Findings:
    """Look at everything, and quantise and run a model of one layer."""
    found = processor()
    versions, extras = installed(), _extras()
    providers, faults = _providers()
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        faults += (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. Uninstall both, then "
            "install one.",
        )
    trial, devices, followed = "", dict[str, str](), remarks(found)
    if not faults:
        devices, sentence = _devices()
        followed += (sentence,)
        trial, faults = _trial()
    memory, free = memory_bytes()
    return Findings(
        versions={"onnxmpq": __version__, "Python": platform.python_version(), **versions},
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        providers=providers,
        devices=devices,
        processor=found,
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_bytes=memory,
        free_memory_bytes=free,
        extras=extras,
        remarks=followed,
        trial=trial,
        faults=faults,
    )


def installed() -> dict[str, str]:
    """Return the versions of the packages that are there, without loading them."""
    return {name: version for name in PACKAGES if (version := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> tuple[Extra, ...]:
    return tuple(
        Extra(name, purpose, all(_version(part) for part in parts), f'pip install "onnxmpq[{name}]"')
        for name, (parts, purpose) in EXTRAS.items()
    )


def _providers() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what onnxruntime can run on, and what is wrong with it."""
    from onnxmpq.runtimes.ort import available_providers

    try:
        return available_providers(), ()
    except RuntimeMissingError as error:
        return (), (str(error),)


def _devices() -> tuple[dict[str, str], str]:
    """Return the GPUs that can be used, and a sentence about them."""
    from onnxmpq.runtimes.devices import devices_here

    return devices_here()


def _trial() -> tuple[str, tuple[str, ...]]:
    """Quantise and run a model of one layer; return what came out, or what is wrong."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from onnxmpq.api import quantize

    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(64, 32)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "trial",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    samples = {"x": random.normal(size=(16, 64)).astype(np.float32)}
    with temporary_folder() as folder:
        try:
            checks = VerifyOptions(allow_slower=True, speed_budget_s=0.0)
            result = quantize(model, samples, output=Path(folder) / "trial.onnx", verify=checks)
        except OnnxmpqError as error:
            return "", (f"A model of one layer could not be quantised and run: {error}",)
    kernels, agreement = result.verdict["kernels"].value, result.verdict["simulation"].value
    told = "exactly as simulated" if agreement == float("inf") else f"{agreement:.0f} dB to its simulation"
    return f"A model of one layer was quantised and ran: {kernels} low-bit kernel(s), {told}.", ()


def remarks(found: Processor) -> tuple[str, ...]:
    """Say in a sentence each what the instruction sets mean for quantised models."""
    if found.isa is None or found.family == "other":
        return ("This processor does not tell its instruction sets: `onnxmpq verify` measures what a file does here.",)
    told = []
    if found.family == "arm":
        told.append(
            "With dot products of 8-bit integers int8 kernels are fast and sum exactly."
            if found.has("asimddp", "i8mm")
            else "Without dot products of 8-bit integers int8 saves memory and brings little speed."
        )
    elif found.has("avx512_vnni", "avx_vnni", "amx_int8"):
        told.append("With VNNI int8 kernels are fast and sum exactly.")
    else:
        told.append(
            "Without VNNI int8 kernels are still faster than float for most networks. They add products in 16 bits: "
            "files made here keep their sums from saturating, and `onnxmpq verify` tells of any other file if it does."
        )
    if found.has("amx_int8"):
        told.append("With AMX large matrix products in int8 are faster still.")
    if found.has("avx512_bf16", "amx_bf16", "bf16"):
        told.append("With bf16 OpenVINO computes float layers in 16 bits unless told otherwise; onnxruntime does not.")
    return tuple(told)
