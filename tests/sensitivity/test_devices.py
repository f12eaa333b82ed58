"""Measuring on a device: the same numbers as on the processor, whichever process and device they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmpq.artifacts import Option
from onnxmpq.errors import InputError
from onnxmpq.options import MEMORY, MeasureOptions
from onnxmpq.runtimes.devices import Device, Host, Processor, get_device
from onnxmpq.sensitivity.batches import _ceiling
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.table import Table
from onnxmpq.sensitivity.workers import devices
from onnxmpq.sensitivity.workers.cluster import ClusterExecutor
from onnxmpq.sensitivity.workers.devices import claimed, here_for, smallest
from onnxmpq.sensitivity.workers.executors import AutoExecutor, opened
from onnxmpq.sensitivity.workers.worker import ResponseJob
from tests.graphs import feeds_for, from_text, rng
from tests.opened import engine_on
from tests.small import MODELS, part

OPTIONS = tuple(Option.parse(text) for text in ("w8a8", "w4a8", "w4"))
COLUMNS = ("loss", "loss_error", "linear", "linear_error", "gram", "gram_error", "sqnr_db", "sqnr_error_db")


def digits(count: int) -> list[dict[str, Any]]:
    """Return feeds of one image each."""
    with np.load(MODELS / "digits_calibration.npz") as data:
        return [{"image": data["image"][i : i + 1]} for i in range(count)]


def has_cuda() -> bool:
    """Tell whether there is a GPU that onnxruntime can use."""
    try:
        get_device("cuda:0").check()
    except InputError:
        return False
    return True


def assert_same(found: Table, want: Table) -> None:
    """Compare tables bit for bit; local errors, which a device sums in another order, to the last digits of float32."""
    assert found.variants == want.variants
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(found, column), getattr(want, column), err_msg=column)
    np.testing.assert_allclose(found.local, want.local, rtol=1e-5)
    assert found.pairs == want.pairs
    assert found.centre_loss == want.centre_loss


def everything(engine: Engine) -> tuple[Table, Any]:
    """Measure a table around a quantised centre with some pairs, and losses and traces."""
    units = [unit.name for unit in engine.space.units if OPTIONS[0] in unit.options]
    centre = {units[0]: OPTIONS[0], units[-1]: OPTIONS[0]}
    table = engine.table(OPTIONS, centre)
    wanted = [(a, b) for a in table.variants[:2] for b in table.variants[3:9:2] if a.unit != b.unit]
    return engine.pairs(table, wanted), (engine.losses([centre, {units[1]: OPTIONS[1]}]), engine.traces(1))


@pytest.mark.parametrize("name", ["digits_conv", "digits_attention"])
def test_tables_pairs_losses_and_traces_are_those_of_the_processor(name: str) -> None:
    with engine_on(part(name), digits(6), batch=4) as engine:
        want, losses = everything(engine)
    with engine_on(part(name), digits(6), batch=4, device="host") as engine:
        found, others = everything(engine)
        assert isinstance(engine.device, Host)
    assert_same(found, want)
    assert others == losses


def test_what_is_no_float_crosses_cuts_as_well() -> None:
    """Token numbers, masks and shapes are among the values."""
    g = rng(5)
    weights = {"table": g.normal(size=(9, 6)).astype(np.float32), "w": g.normal(size=(6, 6)).astype(np.float32)}
    body = """e = Gather(table, ids) m = Greater(e, zero) a = MatMul(e, w) s = Shape(a) b = Where(m, a, e)
        c = MatMul(b, w) y = Reshape(c, s)"""
    text = f"g (int64[n, 4] ids) => (float[n, 4, 6] y) {{ {body} }}"
    model = from_text(text, weights | {"zero": np.array(0, np.float32)})
    feeds = [{"ids": g.integers(0, 9, (1, 4))} for _ in range(4)]
    tables = []
    for device in ("cpu", "host"):
        with engine_on(_proto(model), feeds, device=device, loss="power") as engine:
            tables.append(engine.table(OPTIONS))
    assert_same(tables[1], tables[0])


def _proto(model: ir.Model) -> Any:
    return ir.to_proto(model)


def test_worker_processes_open_the_device_and_give_the_same(tmp_path: Path) -> None:
    with engine_on(part("digits_conv"), digits(3)) as engine:
        want = engine.table(OPTIONS[:2])
    measure = MeasureOptions(device="host", executor="processes:2", store=tmp_path / "r.store")
    with opened(measure) as pooled, engine_on(part("digits_conv"), digits(3), pooled) as engine:
        assert_same(engine.table(OPTIONS[:2]), want)


def test_only_outputs_that_count_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    real = Host.get

    def get(self: Host, value: Any) -> Any:
        found = real(self, value)
        read.append(found.shape)
        return found

    monkeypatch.setattr(Host, "get", get)
    with engine_on(part("digits_conv"), digits(8), device="host") as engine:
        variant = engine.variants(OPTIONS)[0]
        engine.result(ResponseJob((), (variant.unit, str(variant.option)), 0))
        read.clear()
        engine.result(ResponseJob((), (engine.variants(OPTIONS)[4].unit, "w4"), 0))
    assert (8, 10) in read  # the logits of eight samples
    assert {shape for shape in read if shape != (8, 10)} == {()}  # and powers


def test_a_device_keeps_no_more_sessions_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "sessions", 2)
    with engine_on(part("digits_conv"), digits(2), device="host") as engine:
        engine.table(OPTIONS[:1])
        assert engine._worker._bench is not None
        assert len(engine._worker._bench.chain._sessions) == 2


# ---- stores ----------------------------------------------------------------------------------------------------------


def test_a_store_of_the_processor_is_none_of_a_device(tmp_path: Path) -> None:
    store, feeds = tmp_path / "r.store", digits(2)
    with engine_on(part("digits_conv"), feeds, store=store) as engine:
        assert engine.identity["runtime"].endswith(" 1 threads")
    with (
        pytest.raises(InputError, match="another runtime"),
        engine_on(part("digits_conv"), feeds, store=store, device="host"),
    ):
        pass
    with engine_on(part("digits_conv"), feeds, device="host") as engine:
        assert engine.identity["runtime"].endswith(" 1 threads, CPUExecutionProvider on host")


# ---- batches and devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("together", "feeds"), [(8, [8, 8, 4]), (32, [20])])
def test_a_device_says_how_many_samples_run_together(
    together: int, feeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "together", together)
    with engine_on(part("digits_conv"), digits(20), device="host") as engine:
        assert engine.layout.sizes == (20,)
        engine.table(OPTIONS[:1])
        assert engine._worker._bench is not None
        assert engine._worker._bench.batch((), 0).judge.rows == feeds


def test_fewer_samples_run_together_where_their_tensors_would_leave_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for room, feeds in ((10**9, [8, 2]), (3, [3, 3, 3, 1]), (1, [1] * 10)):
        with engine_on(part("digits_conv"), digits(10)) as engine:
            monkeypatch.setattr(Processor, "cache", room * engine.estimator.largest)
        with engine_on(part("digits_conv"), digits(10)) as engine:
            tables.append(engine.table(OPTIONS[:1]))
            assert engine._worker._bench is not None
            assert engine._worker._bench.batch((), 0).judge.rows == feeds
    for table in tables[1:]:
        np.testing.assert_allclose(table.gram, tables[0].gram, rtol=1e-3, atol=1e-5 * np.abs(tables[0].gram).max())


def test_batches_follow_from_the_memory_of_a_gpu_unless_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_text(
        "g (float[n, 8, 9, 9] x) => (float[n, 8, 9, 9] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }",
        {"w": rng(1).normal(size=(8, 8, 3, 3)).astype(np.float32)},
    )
    feeds = feeds_for(model, 40)
    sizes = []
    for room, memory in ((0, 301_000_000), (10**12, 301_000_000), (10**12, MEMORY)):
        monkeypatch.setattr(Host, "room", room)
        with engine_on(_proto(model), feeds, device="host", memory=memory) as engine:
            sizes.append(engine.layout.size)
    assert sizes[0] == sizes[1] < sizes[2] == 40


def test_processes_share_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "room", 10 * MEMORY)
    ceilings = [
        _ceiling(MeasureOptions(device=device, jobs=jobs), get_device("host"))
        for device, jobs in (("host", 0), ("host", 5), ("cuda:0,cuda:1", 0), ("cuda:0,cuda:1", 3), ("host", 99))
    ]
    assert [ceiling / MEMORY for ceiling in ceilings] == [10, 2, 10, 5, 1]
    assert _ceiling(MeasureOptions(device="host", memory=7), get_device("host")) == 7
    assert _ceiling(MeasureOptions(), get_device("cpu")) == MEMORY


def test_the_smallest_device_decides_and_all_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rooms = {"cuda:0": 30, "cuda:1": 20, "cuda:2": 40}

    def fake(name: str) -> Device:
        device = Host()
        monkeypatch.setattr(type(device), "room", property(lambda self: rooms[self.name]))
        monkeypatch.setattr(type(device), "check", lambda self: seen.append(self.name))
        device.name = name
        return device

    monkeypatch.setattr(devices, "get_device", fake)
    options = MeasureOptions(device="cuda:0,cuda:1,cuda:2")
    assert smallest(options).room == 20
    assert seen == list(rooms)
    cluster: Any = ClusterExecutor.__new__(ClusterExecutor)
    assert smallest(MeasureOptions(device="cuda:0", executor=cluster)).room == 30
    assert len(seen) == 3  # the devices of a cluster are elsewhere


def test_runs_are_timed_on_the_device_unless_it_is_a_clusters() -> None:
    cluster: Any = ClusterExecutor.__new__(ClusterExecutor)
    host = get_device("host")
    assert here_for(MeasureOptions(device="host"), host) is host
    assert here_for(MeasureOptions(device="host", executor=cluster), host) is get_device("cpu")
    with engine_on(part("digits_conv"), digits(2), device="host") as engine:
        assert engine.cost(engine.variants(OPTIONS)).seconds > 0
        assert engine.estimator.device is host


def test_processes_take_devices_in_turn(tmp_path: Path) -> None:
    names = ("cuda:0", "cuda:1")
    taken = [claimed.__wrapped__(tmp_path, names) for _ in range(5)]
    assert taken == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert claimed(tmp_path, names) == claimed(tmp_path, names) == "cuda:1"  # a process keeps its own
    assert claimed(tmp_path / "none", ("host",)) == "host"


def test_there_is_a_process_for_each_device_unless_told_otherwise() -> None:
    for device, jobs, workers in (("cuda:0", 0, 1), ("cuda:0,cuda:1", 0, 2), ("cuda", 3, 3), ("host", 0, 1)):
        measure = MeasureOptions(device=device, jobs=jobs)
        assert AutoExecutor(measure.jobs).workers(1000.0, 1) == workers, device
    assert MeasureOptions().jobs == 0


# ---- where there is a GPU --------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not has_cuda(), reason="no GPU that onnxruntime can use")
@pytest.mark.parametrize("name", ["digits_conv", "digits_attention"])
def test_a_gpu_gives_the_processors_table_within_standard_errors(name: str) -> None:
    with engine_on(part(name), digits(64)) as engine:
        want, losses = everything(engine)
    with engine_on(part(name), digits(64), device="cuda:0") as engine:
        found, others = everything(engine)
    assert (np.abs(found.loss - want.loss) <= 0.5 * want.loss_error + 1e-9).all()
    np.testing.assert_allclose(found.local, want.local, rtol=0.05)
    np.testing.assert_allclose(found.gram, want.gram, rtol=0.1, atol=0.05 * float(np.abs(want.gram).max()))
    for other, loss in zip(others[0], losses[0], strict=True):
        assert abs(other.value - loss.value) <= 0.5 * loss.error + 1e-9
