"""A pass of Olive that quantises with onnxmpq, alone or as one step of a workflow.

    python examples/olive_pass.py models/digits_cnn.onnx models/digits_calibration.npz out size=40%

A workflow names it in its package config, beside Olive's own passes, and this folder is on PYTHONPATH:

    {"passes": {"OnnxmpqQuantization": {"module_path": "olive_pass.OnnxmpqQuantization"}}}
    olive run --config workflow.json --package-config package.json
"""

import sys
from pathlib import Path
from typing import Any

from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes.olive_pass import Pass, create_pass_from_dict
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import onnxmpq


class OnnxmpqQuantization(Pass):
    """Give every layer its own precision, within budgets; every layer ``option`` where there is none."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "samples": PassConfigParam(type_=str, required=True, description="A .npz of samples, or a folder."),
            "budget": PassConfigParam(type_=list[str], default_value=[], description="size=30%, drop=1% …"),
            "option": PassConfigParam(type_=str, default_value="w8a8", description="Without a budget: w8a8, w4a8 …"),
            "target": PassConfigParam(type_=str, default_value="ort-cpu", description="What will run the file."),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        wanted = config.model_dump(include={"budget", "option", "target"})
        given: dict[str, Any] = {"budget": wanted["budget"]} if wanted["budget"] else {"plan": wanted["option"]}
        path = Path(resolve_onnx_path(output_model_path))
        path.parent.mkdir(parents=True, exist_ok=True)
        onnxmpq.quantize(
            model.model_path, config.samples, target=wanted["target"], output=path, overwrite=True, **given
        )
        return ONNXModelHandler(model_path=str(path.parent), onnx_file_name=path.name)


if __name__ == "__main__":
    source, samples, folder, *budget = sys.argv[1:]
    step = create_pass_from_dict(OnnxmpqQuantization, {"samples": samples, "budget": budget}, disable_search=True)
    made = step.run(ONNXModelHandler(model_path=source), str(Path(folder) / "model.onnx"))
    print(made.model_path, Path(made.model_path).stat().st_size, "bytes")
