"""What is found by name: our own, and what other packages add through entry points.

    RUNTIMES.names()       every name
    RUNTIMES.load("null")  what it stands for

Nothing is loaded before it is asked for: the tables hold where things are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, InternalError, nearest


@dataclass(frozen=True, slots=True)
class Registry:
    """Things of one kind by name.

    ``own`` says where ours are, as ``module:name``; ``group`` is that of the entry points by which others add theirs.
    """

    kind: str
    group: str
    own: Mapping[str, str]
    _found: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def homes(self) -> Mapping[str, str]:
        """Return where each is; two of one name are an error that names both."""
        if not self._found:
            homes = dict(self.own)
            for entry in entry_points(group=self.group):
                other = homes.setdefault(entry.name, entry.value)
                if other != entry.value:
                    raise InternalError(f"Two {self.kind}s are called '{entry.name}': {other} and {entry.value}.")
            self._found.update(homes)
        return self._found

    def forget(self) -> None:
        """Look for entry points anew when it is asked next."""
        self._found.clear()

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted.

        >>> RUNTIMES.names()[:3]
        ('null', 'onnxruntime', 'onnxruntime-arm64')
        """
        return tuple(sorted(self.homes()))

    def load(self, name: str) -> Any:
        """Return what a name stands for; refuse one that is not known."""
        homes = self.homes()
        if name not in homes:
            raise InputError(
                f"There is no {self.kind} '{brief(name)}'. Known: {', '.join(homes)}.{nearest(name, homes)}"
            )
        module, _, attribute = homes[name].partition(":")
        found = getattr(import_module(module), attribute, None)
        if found is None:
            raise InternalError(f"The {self.kind} '{name}' is said to be {homes[name]}, which is not there.")
        return found


RUNTIMES = Registry(
    "runtime",
    "onnxmpq.runtimes",
    {
        "onnxruntime": "onnxmpq.runtimes.ort:OnnxRuntime",
        "onnxruntime-exact": "onnxmpq.runtimes.ort:ExactOnnxRuntime",
        "openvino": "onnxmpq.runtimes.openvino:OpenVino",
        "qonnx": "onnxmpq.runtimes.qonnx:Qonnx",
        "onnxruntime-web": "onnxmpq.runtimes.web:OnnxRuntimeWeb",
        "onnxruntime-arm64": "onnxmpq.runtimes.arm64:Arm64",
        "onnxruntime-arm64-plain": "onnxmpq.runtimes.arm64:Arm64Plain",
        "qnn": "onnxmpq.runtimes.qnn:Qnn",
        "null": "onnxmpq.runtimes.null:Null",
    },
)
BUDGETS = Registry(
    "budget",
    "onnxmpq.budgets",
    {
        "size": "onnxmpq.budgets.size:Size",
        "bits": "onnxmpq.budgets.bits:Bits",
        "bops": "onnxmpq.budgets.bops:Bops",
        "memory": "onnxmpq.budgets.memory:Memory",
        "drop": "onnxmpq.budgets.drop:Drop",
    },
)
CARRIERS = Registry(
    "carrier",
    "onnxmpq.carriers",
    {
        "dq": "onnxmpq.carriers.dq:Dq",
        "cast8": "onnxmpq.carriers.cast8:Cast8",
        "castmul": "onnxmpq.carriers.castmul:CastMul",
        "planes": "onnxmpq.carriers.planes:Planes",
        "planesmul": "onnxmpq.carriers.planes:PlanesMul",
        "planesgather": "onnxmpq.carriers.planes:PlanesGather",
        "gather": "onnxmpq.carriers.gather:Gather",
        "nbits": "onnxmpq.carriers.nbits:NBits",
        "nbits4": "onnxmpq.carriers.nbits:NBits4",
        "gatherblocks": "onnxmpq.carriers.nbits:GatherBlocks",
        "quant": "onnxmpq.carriers.quant:QuantWeight",
    },
)
FILE_RULES = Registry(
    "set of file rules",
    "onnxmpq.filerules",
    {
        "nbits": "onnxmpq.filerules.nbits:NBitsRules",
        "qnn": "onnxmpq.filerules.qnn:QnnRules",
        "tensorrt": "onnxmpq.filerules.tensorrt:TensorRtRules",
    },
)
DIALECTS = Registry(
    "dialect", "onnxmpq.dialects", {"qdq": "onnxmpq.dialects.qdq:Qdq", "quant": "onnxmpq.dialects.quant:Quant"}
)
PASSES = Registry("pass", "onnxmpq.passes", {})
"""Those of other packages; ours are listed by ``onnxmpq_passes``."""
TARGETS = Registry("target", "onnxmpq.targets", {})
"""Those of other packages, as ``module:file.toml``; ours are files of ``onnxmpq/targets/builtin``."""
METHODS = Registry(
    "method",
    "onnxmpq.methods",
    {
        "gram": "onnxmpq.methods.gram:Gram",
        "clado": "onnxmpq.methods.clado:Clado",
        "clado-star": "onnxmpq.methods.clado:CladoStar",
        "sqnr": "onnxmpq.methods.sqnr:Sqnr",
        "lampq": "onnxmpq.methods.lampq:Lampq",
        "local": "onnxmpq.methods.local:Local",
        "uniform": "onnxmpq.methods.best_uniform:BestUniform",
    },
)
