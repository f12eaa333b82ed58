"""The devices of a run: whether they are there, and which of several a process runs its jobs on.

Results do not depend on which process has which.
"""

import platform
from functools import lru_cache
from itertools import count, cycle
from pathlib import Path

from onnxmpq.options import MeasureOptions
from onnxmpq.runtimes.devices import Device, get_device
from onnxmpq.sensitivity.workers.cluster import ClusterExecutor


def smallest(options: MeasureOptions) -> Device:
    """Return the device with the least memory of its own, once all are seen to be there; those of a cluster are not."""
    devices = [get_device(name) for name in options.devices]
    if not isinstance(options.executor, ClusterExecutor):
        for device in devices:
            device.check()
    return min(devices, key=lambda device: device.room)


def here_for(options: MeasureOptions, device: Device) -> Device:
    """Return what this process can time runs on: a device, or the processor where that is a cluster's."""
    return get_device("cpu") if isinstance(options.executor, ClusterExecutor) else device


@lru_cache
def claimed(folder: Path, devices: tuple[str, ...]) -> str:
    """Return the device of this process in a run whose workspace is in ``folder``: in turn, as processes come.

    A process that takes the place of a dead one comes last; it may share a device for the rest of the run.
    """
    if len(devices) == 1:
        return devices[0]
    places = (folder / f"process-{platform.node()}-{number}" for number in count())
    return next(device for device, place in zip(cycle(devices), places, strict=False) if _is_first_at(place))


def _is_first_at(place: Path) -> bool:
    """Tell whether no other process was there."""
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
