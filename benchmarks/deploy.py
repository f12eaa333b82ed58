"""``python -m benchmarks deploy``: size, speed and error of exports, beside onnxruntime's own quantisers.

Speed is CPU time of one thread in paired runs, on networks with random weights: size, kernels and speed mean what they
say, while SQNR only compares forms with each other (trained networks with a task metric are what quality needs).
"""

import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers import PEERS, Peer, quantise
from benchmarks.shapes import NETS, feeds
from onnxmpq.errors import OnnxmpqError
from onnxmpq.options import Numbers, SearchOptions, VerifyOptions
from onnxmpq.runtimes import KernelReport, PairedTiming, Runtime, Session, get_runtime, paired, runner
from onnxmpq.runtimes.base import one_line

OPTIONS = ("w8a8", "w4a8", "w8")
TARGETS = {"onnxruntime": "ort-cpu", "openvino": "openvino"}
CALIBRATION, EVALUATION = 8, 4
Only = Literal["all", "peers", "ours"]
Say = Callable[[str], None]
Maker = Callable[[], tuple[bytes, str]]
"""Makes a file, and says what is worth knowing about it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantised form of a network, loaded; ``data`` is the file."""

    name: str
    kind: str
    data: bytes
    run: Callable[[], object]
    session: Session


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``against`` has our options: how many times faster ours runs than this variant."""

    net: str
    variant: str
    kind: str
    note: str
    bytes_share: float | None = None
    speed: PairedTiming | None = None
    sqnr_db: float | None = None
    kernels: KernelReport | None = None
    against: tuple[tuple[str, PairedTiming], ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What all comparisons of one call share."""

    runtime: Runtime
    budget_s: float
    size: int
    only: Only
    say: Say

    def rows(self, net: str) -> list[Row]:
        """Compare everything on one network."""
        model = NETS[net](self.size)
        data = model.SerializeToString()
        calibration, evaluation = feeds(model, CALIBRATION, 1), feeds(model, EVALUATION, 2)
        plain = get_runtime("onnxruntime").session(data, mode="plain")
        reference = [plain.run(feed)["y"] for feed in evaluation]

        def load(name: str, kind: str, made: bytes) -> Variant:
            session = self.runtime.session(made, mode="deployed")
            return Variant(name, kind, made, runner(session, evaluation[0]), session)

        base = load("float", "float", data)

        def row(variant: Variant, note: str = "") -> Row:
            self.say(f"{net}: timing {variant.name}")
            return Row(
                net,
                variant.name,
                variant.kind,
                note,
                len(variant.data) / len(data),
                paired(base.run, variant.run, budget_s=self.budget_s),
                sqnr(reference, [variant.session.run(feed)["y"] for feed in evaluation]),
                self.runtime.kernels(variant.data),
            )

        made = [(base, row(base)), *((form, row(form)) for form in self._float32(data, evaluation[0]))]
        failed: list[Row] = []
        for name, kind, make in self._makers(data, calibration):
            self.say(f"{net}: making {name}")
            try:
                output, note = make()
                variant = load(name, kind, output)
                made.append((variant, row(variant, note)))
            except Exception as error:  # a quantiser may raise anything; the table says what
                failed.append(Row(net, name, kind, one_line(error, 240)))
        made = _best("dynamic", _best("static", made))
        ours = [variant for variant, _ in made if variant.kind == "ours"]
        rows = []
        for variant, line in made:
            against = []
            for own in ours if variant.kind not in ("ours", "float") else ():
                self.say(f"{net}: timing {own.name} against {variant.name}")
                against.append((own.name, paired(variant.run, own.run, budget_s=self.budget_s)))
            rows.append(replace(line, against=tuple(against)))
        return rows + failed

    def _float32(self, data: bytes, feed: dict[str, np.ndarray]) -> Iterator[Variant]:
        """Give the float32 form, where the runtime computes float models in something shorter by default."""
        configured = getattr(self.runtime, "configured", None)
        if configured is None or getattr(self.runtime, "float_type", "f32") == "f32":
            return
        session: Session = configured(data, {"INFERENCE_PRECISION_HINT": "f32"})
        yield Variant("float32", "float", data, runner(session, feed), session)

    def _makers(self, data: bytes, calibration: list[dict[str, np.ndarray]]) -> Iterator[tuple[str, str, Maker]]:
        """Give what can be made: a name, a kind, and the function that makes it."""

        def by_peer(peer: Peer) -> Maker:
            return lambda: (quantise(peer, data, calibration), "")

        if self.only != "ours":
            for peer in PEERS:
                yield peer.name, peer.kind, by_peer(peer)
        if self.only != "peers":
            for option in OPTIONS:
                yield option, "ours", self._by_us(data, calibration, option)

    def _by_us(self, data: bytes, calibration: list[dict[str, np.ndarray]], option: str) -> Maker:
        """Give the function that makes our export with one option everywhere."""

        def make() -> tuple[bytes, str]:
            from onnxmpq import quantize

            with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder:
                source, output = Path(folder) / "model.onnx", Path(folder) / "out.onnx"
                source.write_bytes(data)
                result = quantize(
                    source,
                    calibration=calibration,
                    target=TARGETS[self.runtime.name],
                    plan=option,
                    output=output,
                    search=SearchOptions(method="uniform"),
                    numbers=Numbers(),
                    verify=VerifyOptions(as_asked=True),
                )
                return Path(result.path).read_bytes(), " ".join(result.notes)

        return make


def _best(kind: str, made: list[tuple[Variant, Row]]) -> list[tuple[Variant, Row]]:
    """Keep the fastest of a kind only, and call it so."""
    rivals = [(variant, row) for variant, row in made if row.kind == kind and row.speed is not None]
    if not rivals:
        return made
    variant, row = max(rivals, key=lambda entry: entry[1].speed.ratio if entry[1].speed else 0.0)
    losers = ", ".join(
        f"{other.variant} x{other.speed.ratio:.2f}" for _, other in rivals if other is not row and other.speed
    )
    best = (variant, replace(row, note=f"fastest of its kind; slower: {losers}" if losers else ""))
    dropped = {id(other) for _, other in rivals}
    return [best if entry[1] is row else entry for entry in made if entry[1] is row or id(entry[1]) not in dropped]


def sqnr(reference: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Give the signal-to-noise ratio in dB over all samples; infinite where they agree to the bit."""
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in reference)
    noise = sum(
        float(np.square(a.astype(np.float64) - b.astype(np.float64)).sum()) for a, b in zip(reference, got, strict=True)
    )
    return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def table(rows: Sequence[Row], title: str) -> Table:
    """Lay the rows out."""
    shown = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        caption="speed: times float, median (quartiles); * noisy; ours: how many times faster",
    )
    ours = list(dict.fromkeys(name for row in rows for name, _ in row.against))
    for name in ("net", "variant", "bytes", "speed", "SQNR dB", "low-bit", "float", "Q/DQ left"):
        shown.add_column(name, justify="left" if name in ("net", "variant") else "right", no_wrap=name != "Q/DQ left")
    for name in ours:
        shown.add_column(f"our {name}", justify="right", no_wrap=True)
    seen = ""
    for row in rows:
        against = dict(row.against)
        if row.net != seen:
            shown.add_section()
        label, seen = row.net if row.net != seen else "", row.net
        if row.kernels is None:
            shown.add_row(label, f"{row.variant}: failed", style="dim")
            continue
        shown.add_row(
            label,
            row.variant,
            f"{row.bytes_share:.2f}",
            _times(row.speed),
            f"{row.sqnr_db:.1f}",
            str(row.kernels.low_bit),
            str(row.kernels.float_compute),
            str(row.kernels.leftover),
            *(_times(against.get(name)) for name in ours),
        )
    return shown


def _times(timing: PairedTiming | None) -> str:
    """Write a ratio with its quartiles."""
    if timing is None:
        return ""
    low, high = timing.quartiles
    return f"{timing.ratio:.2f} ({low:.2f}–{high:.2f}){'*' if timing.noisy else ''}"


def document(rows: Sequence[Row], runtime: Runtime, bench: Bench) -> dict[str, Any]:
    """Give everything as JSON data, raw times and the machine's facts included."""
    float_type = getattr(runtime, "float_type", "f32")
    facts = {"processor": processor(), "runtime": runtime.name, "version": runtime.version, "float_type": float_type}
    finite = [
        replace(row, sqnr_db=None) if row.sqnr_db == float("inf") else row for row in rows
    ]  # JSON has no infinity
    return {"schema": 1, **facts, "image_size": bench.size, "rows": [asdict(row) for row in finite]}


def processor() -> str:
    """Name the processor, with the instruction sets that matter for integers."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
    flags = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())}, {', '.join(flags)}"


@click.command()
@click.option("--nets", default=",".join(NETS), show_default=True, help="Which networks, separated by commas.")
@click.option(
    "--runtime", "name", type=click.Choice(["onnxruntime", "openvino"]), default="onnxruntime", show_default=True
)
@click.option("--only", type=click.Choice(["all", "peers", "ours"]), default="all", show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write raw numbers here, too.")
@click.option("--budget-s", default=1.5, show_default=True, help="Seconds for each paired timing.")
@click.option("--size", default=224, show_default=True, help="Side of the image in pixels.")
def deploy(nets: str, name: str, only: str, file: Path | None, budget_s: float, size: int) -> None:
    """Compare float, our exports, and onnxruntime's quantisers: bytes, speed, error, kernels."""
    console, log = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=180)  # a file: nothing to wrap for
    chosen = [net.strip() for net in nets.split(",")]
    if unknown := [net for net in chosen if net not in NETS]:
        raise click.BadParameter(
            f"no net is called {', '.join(unknown)}; known: {', '.join(NETS)}", param_hint="--nets"
        )
    rows: list[Row] = []
    try:
        runtime = get_runtime(name)
        with log.status("") as status:
            bench = Bench(runtime, budget_s, size, cast(Only, only), status.update)
            for net in chosen:
                rows += bench.rows(net)
    except OnnxmpqError as error:
        raise click.ClickException(str(error)) from error
    title = f"{runtime.name} {runtime.version} on {processor()}, one thread"
    console.print(table(rows, title))
    for row in rows:
        if row.note:
            console.print(f"{row.net}, {row.variant}: {row.note}", style="dim", highlight=False)
    if file is not None:
        file.write_text(json.dumps(document(rows, runtime, bench), indent=1), encoding="utf-8")
