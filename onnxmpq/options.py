"""What can be asked of a run, as fields: keywords, command line, configuration files and their help come from these.

    Numbers          how values become codes
    GraphOptions     what is done to the graph besides
    Constraints      decisions by hand
    SearchOptions    how a plan is searched
    MeasureOptions   how losses are measured, and where
    VerifyOptions    when a file is as it should be

A field that has a flag is an option of every command that takes its class; its other facts are beside it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from onnxmpq.artifacts import Option
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, nearest

if TYPE_CHECKING:
    from concurrent.futures import Executor

ActivationRanges = Literal["minmax", "percentile", "mse", "entropy"]
WeightRanges = Literal["minmax", "mse"]
Rounding = Literal["nearest", "gptq", "sequential"]
Smoothing = Literal["auto", "off", "0.5", "0.75", "channels"]
Effort = Literal["quick", "default", "extensive"]
LossName = Literal["auto", "kl", "ce", "power"]

ACTIVATION_RANGES: tuple[ActivationRanges, ...] = ("minmax", "percentile", "mse", "entropy")
WEIGHT_RANGES: tuple[WeightRanges, ...] = ("minmax", "mse")
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "gptq", "sequential")
SMOOTHINGS: tuple[Smoothing, ...] = ("auto", "off", "0.5", "0.75", "channels")
EFFORTS: tuple[Effort, ...] = ("quick", "default", "extensive")
LOSSES: tuple[LossName, ...] = ("auto", "kl", "ce", "power")
DEVICES = ("cpu", "cuda:0", "host")
"""Where losses are measured; of GPUs there may be others, by their numbers."""
MEMORY = 4_000_000_000
"""The ceiling for one process where none is given, in bytes."""
MOST_FITTED_BYTES = 1 << 28
"""The largest model whose weights are fitted where nobody asks for it: beyond that it takes hours on a processor."""
MENU = ("w8a8", "w6a8", "w4a8", "w3a8", "w2a8")
NODE = "NODE is a unit, a node, a regular expression, or op:Conv."
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def flag(text: str, help_text: str, **facts: Any) -> dict[str, Any]:
    """Return what makes a field an option of commands: the flag that stands for it, what help says, and other facts."""
    return {"flag": text, "help": help_text, **facts}


@dataclass(frozen=True, slots=True)
class Numbers:
    """How ranges are chosen, for activations and for weights, and how weights are rounded.

    ``bias_correction`` tells whether biases take up what rounding shifts. A mapping with some of the fields leaves the
    others as they usually are for what is done: ``numbers={"activations": "minmax"}``.
    """

    activations: ActivationRanges = field(
        default="mse",
        metadata=flag(
            "--ranges",
            "How the ranges of activations are chosen.  [default: as the plan says, else mse]",
            choices=ACTIVATION_RANGES,
        ),
    )
    weights: WeightRanges = field(
        default="mse",
        metadata=flag(
            "--weight-ranges",
            "How the scales of weights are chosen.  [default: as the plan says, else mse]",
            choices=WEIGHT_RANGES,
        ),
    )
    bias_correction: bool = field(
        default=True,
        metadata=flag(
            "--bias-correction/--no-bias-correction",
            "Let biases take up what rounding the weights shifts.  [default: as the plan says, else yes]",
        ),
    )
    rounding: Rounding = field(
        default="nearest",
        metadata=flag(
            "--rounding",
            "How weights are rounded to codes, judged on the samples: gptq lets later weights of a layer make up for "
            "earlier ones, sequential later layers, too.  [default: as the plan says, else sequential where plans are "
            "searched and for an option below 8 bits, but not for a model of over 256 MB, else nearest]",
            choices=ROUNDINGS,
        ),
    )
    smooth: Smoothing = field(
        default="auto",
        metadata=flag(
            "--smooth",
            "Move outliers among channels of activations into the weights that read them: by a power of 0.5 or 0.75 of "
            "their size, or so that all channels have one range; auto measures which, if any, helps.  [default: as "
            "the plan says, else auto]",
            choices=SMOOTHINGS,
        ),
    )

    @classmethod
    def of(cls, ranges: Mapping[str, str]) -> Self:
        """Read what a plan says about them; what it does not name is as usual, but that nothing is smoothed then."""
        known = cls._values()
        for key, value in ranges.items():
            if value not in known.get(key, ()):
                raise InputError(f"The plan's ranges say '{key}': '{value}', which means nothing to this version.")
        values: dict[str, Any] = {"smooth": "off", **ranges}
        if "bias_correction" in values:
            values["bias_correction"] = values["bias_correction"] == "True"
        return cls(**values)

    @staticmethod
    def asked(given: "NumbersAsked", usual: "Numbers") -> "Numbers":
        """Return what somebody asks for: all of it, or some fields by name and the others as usual.

        >>> Numbers.asked({"activations": "minmax"}, usual=Numbers.searched()).rounding
        'sequential'
        """
        if isinstance(given, Numbers):
            return given
        fields_given, known = dict(given or {}), Numbers._values()
        for key, value in fields_given.items():
            if key not in known:
                raise InputError(f"Numbers have no '{key}'. Known: {', '.join(known)}.{nearest(key, tuple(known))}")
            if str(value) not in known[key]:
                raise InputError(f"'{key}' of numbers cannot be '{value}'. Known: {', '.join(known[key])}.")
        return Numbers.of(usual.told() | {key: str(value) for key, value in fields_given.items()})

    @staticmethod
    def _values() -> dict[str, tuple[str, ...]]:
        """Return what each field may be, as a plan says it."""
        return {
            "activations": ACTIVATION_RANGES,
            "weights": WEIGHT_RANGES,
            "bias_correction": ("True", "False"),
            "rounding": ROUNDINGS,
            "smooth": SMOOTHINGS,
        }

    @classmethod
    def searched(cls) -> Self:
        """Return those of searches: every layer is fitted behind those before it, and rounded by GPTQ."""
        return cls(rounding="sequential")

    @classmethod
    def uniform(cls, option: Option, model_bytes: int) -> Self:
        """Return those of one option for all of a model of some size: below 8 bits rounding decides what it loses.

        >>> Numbers.uniform(Option.parse("w4a8"), 1000).rounding, Numbers.uniform(Option.parse("w8a8"), 1000).rounding
        ('sequential', 'nearest')
        """
        few = 0 < option.weight_bits < 8
        return cls.searched() if few and model_bytes <= MOST_FITTED_BYTES else cls()

    @property
    def measured(self) -> Self:
        """Those with which single choices are measured: what stands before a layer is another then in every plan."""
        return replace(self, rounding="gptq") if self.rounding == "sequential" else self

    def told(self) -> dict[str, str]:
        """Return what a plan says about them; nothing of smoothing where there is none.

        >>> Numbers.of(Numbers(rounding="gptq").told()) == Numbers(rounding="gptq")
        True
        """
        return {key: str(value) for key, value in asdict(self).items() if (key, value) != ("smooth", "off")}


NumbersAsked = Numbers | Mapping[str, object] | None
"""All of them, some by name, or none: what is not told is as usual for what is done."""


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What is done to the graph besides: further passes before anything is looked at, and what of it a file keeps."""

    passes: Sequence[str] = field(
        default=(),
        metadata=flag(
            "--pass",
            "A further pass over the normalised model: equalise-layers, fuse-gelu, fix-shapes. Repeatable.",
            metavar="NAME",
            words="passes",
        ),
    )
    keep_metadata: bool = field(
        default=False,
        metadata=flag(
            "--keep-metadata",
            "Keep doc strings, metadata of nodes and values, and types that runtimes infer, in the file.",
        ),
    )

    def __post_init__(self) -> None:
        """Hold lists as they cannot change."""
        _hold_tuples(self)


@dataclass(frozen=True, slots=True)
class Constraints:
    """Decisions made by hand, as they are typed."""

    keep: Sequence[str] = field(
        default=(), metadata=flag("--keep", f"These take this option. {NODE}", metavar="NODE=OPTION")
    )
    exclude: Sequence[str] = field(default=(), metadata=flag("--exclude", "These stay float.", metavar="NODE"))
    ties: Sequence[str] = field(
        default=(),
        metadata=flag(
            "--tie",
            "These take one option together; inputs ties all that read one tensor, which has one width then.",
            metavar="NODE,NODE",
        ),
    )

    def __post_init__(self) -> None:
        """Hold lists as they cannot change."""
        _hold_tuples(self)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a plan is searched: by which method, named or made, among which options, and how long."""

    method: object = field(
        default="",
        metadata=flag(
            "--method",
            "How a plan is made: {methods}.  [default: gram with a budget, else uniform]",
            metavar="NAME",
            words="methods",
        ),
    )
    method_options: Sequence[str] = field(
        default=(),
        metadata=flag(
            "--method-option/-m",
            "An option of the method: psd=no for clado, search=sequential for sqnr, gamma=2 for lampq. Repeatable.",
            metavar="NAME=VALUE",
        ),
    )
    options: Sequence[str | Option] = field(
        default=MENU,
        metadata=flag("--options", "What units may take, separated by commas.", listed=True, words="options"),
    )
    effort: str = field(
        default="default",
        metadata=flag(
            "--effort",
            "How long to search: quick measures once, the others again around the plans they find.",
            choices=EFFORTS,
        ),
    )

    def __post_init__(self) -> None:
        """Refuse an effort that there is not."""
        _hold_tuples(self)
        if self.effort not in EFFORTS:
            hint = nearest(self.effort, EFFORTS)
            raise InputError(f"There is no effort '{self.effort}'. Known: {', '.join(EFFORTS)}.{hint}")


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How losses are measured, what keeps the results, and where jobs run.

    ``memory`` is a ceiling in bytes for one process; ``batch`` follows from it where it is 0, and ``stage``, how many
    samples a search measures all that it might do on, from what a sample takes. ``executor`` is the name of one or any
    ``concurrent.futures.Executor``, with ``ahead`` jobs in flight; results do not depend on it. ``auto`` runs short
    work in this process, long work in ``jobs`` others. On a ``device`` there is one process for each unless ``jobs``
    says otherwise, and where ``memory`` is not told, 40 % of a GPU's own are for values.

    ``function`` is a loss of the user's own, a function of a module (workers must be able to import it). The Gram of
    interactions stays that of the built-in loss; what a variant adds alone is the function's. Where ``blends`` is None,
    a search by a method that asks for blends measures on them if samples are few or the model is ``sure`` of them.
    """

    store: str | Path | None = field(
        default=None, metadata=flag("--store", "Keep every finished job here, and go on from it.")
    )
    loss: str = field(
        default="auto",
        metadata=flag("--loss", "auto, kl, ce (with labels) or power.", shows_default=True, words="losses"),
    )
    outputs: Sequence[str] = field(
        default=(), metadata=flag("--outputs", "Which outputs count, separated by commas; all if empty.", listed=True)
    )
    samples: int = field(default=0, metadata=flag("--samples", "How many samples to use; all of them if 0.", least=0))
    blends: bool | Literal["sure"] | None = field(
        default=None,
        metadata=flag(
            "--blends/--no-blends",
            "Measure on blends of two samples, too. A store holds either.  [default: where the method asks for it and "
            "samples are few, or the model much surer of them than of blends]",
        ),
    )
    memory: int = field(
        default=MEMORY,
        metadata=flag("--memory", "Ceiling for one process.", typed="4GB", shows_default=True, parse="bytes"),
    )
    device: str = field(
        default="cpu",
        metadata=flag(
            "--device",
            "Where losses are measured: cpu, cuda:0, several as cuda:0,cuda:1, or host, the code of devices on the "
            "processor.",
            shows_default=True,
            words="devices",
        ),
    )
    executor: "str | Executor" = field(
        default="auto",
        metadata=flag(
            "--executor",
            "auto, inline, processes[:N], dask:local[:N], dask:URL.",
            shows_default=True,
            words="executors",
        ),
    )
    jobs: int = field(
        default=0,
        metadata=flag(
            "--jobs", "Jobs side by side, each in a process: as many as there are cores and memory for if 0.", least=0
        ),
    )
    seed: int = field(default=0, metadata=flag("--seed", "Seed of everything random.", least=0))
    threads: int = field(default=1, metadata=flag("--threads", "Threads of each process.", least=1, shows_default=True))
    batch: int = 0
    stage: int = 0
    function: Callable[..., Any] | None = None
    ahead: int = 0

    def __post_init__(self) -> None:
        """Hold lists as they cannot change, and refuse devices that there cannot be."""
        _hold_tuples(self)
        devices = self.devices
        if self.device != "cpu" and not self.jobs:
            object.__setattr__(self, "jobs", len(devices))

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the names of the devices.

        >>> MeasureOptions(device="cuda,cuda:1").devices
        ('cuda:0', 'cuda:1')
        """
        return parse_devices(self.device)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """When a file is as it should be, and what is done where it is not.

    ``speed_budget_s`` is how long the file is timed against the float model.
    """

    guard: Sequence[str] = field(
        default=(),
        metadata=flag(
            "--guard",
            "From where on a file counts as damaged: classes>=80%, loss<=0.1 or sqnr>=10. Repeatable.",
            metavar="FIGURE",
        ),
    )
    as_asked: bool = field(
        default=False, metadata=flag("--as-asked", "Keep no unit finer than --option, whatever it does to the outputs.")
    )
    allow_slower: bool = field(
        default=False, metadata=flag("--allow-slower", "Keep integer kernels even where they run slower than float.")
    )
    fastest: bool = field(
        default=False,
        metadata=flag(
            "--fastest", "Place kernels by measurement: of every unit the options alone that make the whole fastest."
        ),
    )
    latency_table: str = field(
        default="",
        metadata=flag(
            "--latency-table",
            "What `onnxmpq latency` measured, here or elsewhere: kernels are placed by it, and nothing is timed.",
            metavar="FILE",
        ),
    )
    threads: int = field(default=1, metadata=flag("--threads", "Threads of the runtime.", least=1, shows_default=True))
    speed_budget_s: float = 2.0

    def __post_init__(self) -> None:
        """Hold lists as they cannot change."""
        _hold_tuples(self)


def _hold_tuples(options: object) -> None:
    """Let fields that may be any sequence hold tuples, so that equal options are equal; a text alone is one item."""
    for found in fields(options):  # type: ignore[arg-type]
        value = getattr(options, found.name)
        if isinstance(found.default, tuple) and not isinstance(value, tuple):
            object.__setattr__(options, found.name, (value,) if isinstance(value, str) else tuple(value))


def parse_devices(text: str) -> tuple[str, ...]:
    """Read one device, or several GPUs separated by commas.

    >>> parse_devices("cuda, cuda:1"), parse_devices("host")
    (('cuda:0', 'cuda:1'), ('host',))
    """
    names = [name.strip() for name in str(text).split(",")]
    for name in names:
        if not re.fullmatch(r"cpu|host|cuda(:(0|[1-9][0-9]{0,2}))?", name, re.ASCII):
            known = ", ".join((*DEVICES[:-1], "cuda:1 and so on", DEVICES[-1]))
            raise InputError(f"There is no device '{brief(name)}'. Known: {known}.{nearest(name, DEVICES)}")
    found = tuple(dict.fromkeys("cuda:0" if name == "cuda" else name for name in names))
    if len(found) > 1 and not all(name.startswith("cuda") for name in found):
        raise InputError(f"The devices '{brief(text)}' are not of one kind. Several can only be GPUs: cuda:0,cuda:1.")
    return found


def parse_bytes(text: str) -> int:
    """Read an amount of memory.

    >>> parse_bytes("4GB"), parse_bytes("512 MiB"), parse_bytes("1000")
    (4000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?I?)B?\s*", text.upper())
    amount = float(match[1]) * _UNITS.get(match[2], inf) if match else inf
    if not isfinite(amount) or amount < 1:
        raise InputError(f"'{brief(text)}' is no amount of memory. Expected a number and a unit: 4GB, 512MB, 2GiB.")
    return int(amount)
