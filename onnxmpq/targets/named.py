"""Targets by name: built in, of other packages, or files of anybody's own."""

from functools import cache
from importlib import resources
from pathlib import Path

from onnxmpq.disk.reading import TOML_BYTES, brief, read_text
from onnxmpq.errors import InputError, nearest
from onnxmpq.registry import TARGETS
from onnxmpq.targets.reader import parse_target
from onnxmpq.targets.schema import Target

_MOST_PARENTS = 8


def builtin_names() -> tuple[str, ...]:
    """Return the names of the targets that come with onnxmpq."""
    folder = resources.files("onnxmpq") / "targets" / "builtin"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def names() -> tuple[str, ...]:
    """Return the names of all targets that are installed."""
    return tuple(sorted({*builtin_names(), *TARGETS.homes()}))


def target(name: str) -> Target:
    """Return a target by name, or read one from a ``.toml`` file.

    ``@VARIANT`` behind either asks for files for the machines of a variant: ``@vnni`` for x86 with VNNI only.
    """
    base, variant = split_variant(name)
    return _whole(base, 0).variant(variant)


def split_variant(name: str) -> tuple[str, str]:
    """Take the name of a variant off that of a target.

    >>> split_variant("ort-cpu@vnni"), split_variant("ort-cpu")
    (('ort-cpu', 'vnni'), ('ort-cpu', 'any'))
    """
    base, at, asked = name.rpartition("@")
    return (name, "any") if not at or asked.endswith(".toml") else (base, asked)


def _whole(name: str, depth: int) -> Target:
    """Read a target with all its variants."""
    if depth > _MOST_PARENTS:
        raise InputError(f"Target '{brief(name)}' extends others more than {_MOST_PARENTS} deep, or itself.")
    if name.endswith(".toml"):
        return _read(read_text(Path(name), "target", TOML_BYTES), name, depth)
    if name in builtin_names():
        return _builtin(name)
    if name not in TARGETS.homes():
        raise InputError(
            f"There is no target '{name}'. Known: {', '.join(names())}; or give the path of a .toml file."
            + nearest(name, names())
        )
    module, _, file = TARGETS.homes()[name].partition(":")
    return _read((resources.files(module) / file).read_text(encoding="utf-8"), name, depth)


def _read(text: str, where: str, depth: int) -> Target:
    def parent(extended: str) -> Target:
        beside = where.endswith(".toml") and extended.endswith(".toml")
        return _whole(str(Path(where).parent / extended) if beside else extended, depth + 1)

    return parse_target(text, where, parent)


@cache
def _builtin(name: str) -> Target:
    file = resources.files("onnxmpq") / "targets" / "builtin" / f"{name}.toml"
    return _read(file.read_text(encoding="utf-8"), name, 0)
