"""Whose code a configuration may run: what is listed here, and what the person at the keyboard allows.

A YAML file names classes, and jsonargparse imports what it names and calls it. Two barriers stand before that. Nothing
is imported from outside the modules below, for to import is to run. And after parsing, before anything is built, every
``class_path`` must be a class that its module is listed for: no function, which would be called like a class. Where any
value is taken, nothing is built at all. The permission for other code is given on the command line, never in a file.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse.typing import Path as FileRead
from lightning import Callback, LightningModule
from torch import nn, optim

from amal.runtime.yaml_files import check_yaml

OPTION = "--allow_code"

# The classes of a kind in each module. jsonargparse sees to it that the kind is the one that is wanted in its place.
_OF_A_KIND: dict[str, tuple[type, ...]] = {
    "amal.algorithms": (LightningModule,),
    "amal.bench.callback": (Callback,),
    "amal.networks": (nn.Module,),
    "amal.ops.information": (object,),
    "torch.nn": (nn.Module,),
    "torch.optim": (optim.Optimizer, optim.lr_scheduler.LRScheduler),
}
# Classes by name, for beside them are others that call functions, read checkpoints, or write and delete files anywhere.
_BY_NAME: dict[str, tuple[str, ...]] = {
    "callbacks": ("Diagnosis", "Evolution", "FinalTest", "Pictures", "Telemetry", "Tracking", "TrainingProgress"),
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "RichModelSummary",
        "RichProgressBar",
        "TQDMProgressBar",
        "Timer",
    ),
    "lightning.pytorch.loggers": ("CometLogger", "CSVLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"),
    "lightning.pytorch.plugins": ("TorchSyncBatchNorm",),
    "lightning.pytorch.plugins.environments": (
        "KubeflowEnvironment",
        "LSFEnvironment",
        "LightningEnvironment",
        "MPIEnvironment",
        "SLURMEnvironment",
        "TorchElasticEnvironment",
    ),
    "lightning.pytorch.profilers": ("AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler"),
    "lightning.pytorch.strategies": ("DDPStrategy", "SingleDeviceStrategy"),
}
_WHERE_DEFINED = ("lightning.fabric.plugins.environments",)  # some of the above, which another module hands on
_RUNS_ITS_SOURCE = ("amal.networks.critics", "EPyMARLCritic")
_OURS = ("amal", "callbacks", "datamodules", "lightning", "torch")

_allowed: list[str] | None = None  # in this process; None before anybody was asked
_load = get_loader("yaml")


class ForeignCode(ValueError):
    """Code that nobody has allowed; the message is one line and tells how to."""

    def __init__(self, name: str, location: str) -> None:
        ours = name.partition(".")[0] in _OURS
        what = "no class that a configuration may name" if ours else "code from outside the project"
        super().__init__(f"{name} is {what}; if you trust it, add {OPTION} {location}")


def taken_permissions(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other arguments, what ``--allow_code NAME`` or ``--allow_code=NAME`` among them allow)."""
    others: list[str] = []
    allowed: list[str] = []
    words = iter(args)
    for word in words:
        if word == OPTION:
            allowed.append(next(words, ""))
        elif word.startswith(OPTION + "="):
            allowed.append(word.partition("=")[2])
        else:
            others.append(word)
    return others, allowed


def allow_only(allowed: Sequence[str]) -> None:
    """Lets jsonargparse import what is listed and what is allowed, from now on in this process, and nothing else.

    What is allowed is also found in the working directory. jsonargparse then reads plain YAML from files of this
    machine only, see ``amal.runtime.yaml_files``.

    Args:
        allowed: packages or modules with all that is below them, or files that end in .py.

    Raises:
        ValueError: one of them is neither.
    """
    global _allowed
    for name in allowed:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) and not name.endswith(".py"):
            raise ValueError(f"{OPTION} takes a package, a module or a file that ends in .py, got {name!r}")
    modules = [name for name in allowed if not name.endswith(".py")]
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, and only if asked: libraries look for optional packages there too
    known = [*_OF_A_KIND, *_BY_NAME, *_WHERE_DEFINED]
    withdrawn = [name for name in _allowed or () if not name.endswith(".py") and name not in known]
    set_parsing_settings(
        import_path_denylist=["*", *withdrawn],
        import_path_allowlist=[*known, *modules],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,  # Lightning turns it on
    )
    set_loader("yaml", _load_plain)
    _allowed = list(allowed)


@contextmanager
def also_allowed(module: str) -> Iterator[None]:
    """Within it, what is in a module of the caller's own code is allowed too."""
    before = permissions()
    if module.partition(".")[0] not in _OURS:
        allow_only([*before, module])
    try:
        yield
    finally:
        allow_only(before)


def permissions() -> list[str]:
    """What is allowed in this process: nothing, unless ``allow_only`` was told otherwise."""
    if _allowed is None:
        allow_only(())
    return _allowed or []


def code_digests() -> dict[str, str]:
    """The first 12 hex digits of the SHA-256 of the Python source behind each allowed name."""
    digests = {}
    for name in permissions():
        digest = hashlib.sha256()
        for path in _sources(name):
            digest.update(path.read_bytes())
        digests[name] = digest.hexdigest()[:12]
    return digests


def _sources(name: str) -> list[Path]:
    if name.endswith(".py"):
        return [path for path in (Path(name),) if path.is_file()]
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)]
    return sorted(path for place in spec.submodule_search_locations for path in Path(place).rglob("*.py"))


def check_code(config: Any) -> None:
    """Raises ForeignCode for the first thing in a parsed configuration that is neither listed nor allowed.

    Args:
        config: what jsonargparse made of files and arguments, at any depth.
    """
    permissions()
    _check(config, ())


def _check(value: Any, defaults: Sequence[Any]) -> None:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, FileRead) or any(value is default for default in defaults):
        return  # where a part was read from, or its author's own choice
    if callable(value) or inspect.ismodule(value):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
        if not _is_allowed(name) and not _is_listed(value):
            raise ForeignCode(name, name.rpartition(".")[0])
    elif isinstance(value, Mapping):
        if "class_path" in value:
            defaults = _check_class(value)
        for inner in value.values():
            _check(inner, defaults)
    elif isinstance(value, Collection) and not isinstance(value, str | bytes):
        for inner in value:
            _check(inner, defaults)


def _check_class(spec: Mapping[str, Any]) -> Sequence[Any]:
    """Checks what a ``class_path`` names; the defaults of the constructor, which are its author's choice."""
    path = spec["class_path"]
    if not isinstance(path, str):
        raise ValueError(f"class_path must be the dotted name of a class, got {path!r}")
    module = path.rpartition(".")[0]
    known = (*_OF_A_KIND, *_BY_NAME)
    found = _found(path) if _is_allowed(path) or any(f"{path}.".startswith(f"{name}.") for name in known) else None
    if not _is_allowed(path) and not _is_listed(found):
        raise ForeignCode(path, module)
    bases = inspect.getmro(found) if inspect.isclass(found) else ()
    if any((base.__module__, base.__name__) == _RUNS_ITS_SOURCE for base in bases):
        given = {**(_as_dict(spec.get("dict_kwargs"))), **_as_dict(spec.get("init_args"))}
        if "source" in given:
            _check_source(str(given["source"]))
    constructors = [base.__dict__["__init__"] for base in bases if inspect.isfunction(base.__dict__.get("__init__"))]
    return [p.default for constructor in constructors for p in inspect.signature(constructor).parameters.values()]


def _as_dict(value: Any) -> dict[str, Any]:
    value = vars(value) if isinstance(value, Namespace) else value
    return value if isinstance(value, dict) else {}


def _found(path: str) -> Any:
    """What is at a path that may be imported, or None."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ImportError:  # where a class takes the place of a module: there are methods
        return None


def _is_allowed(path: str) -> bool:
    return any(path.startswith(name + ".") for name in permissions())


def _is_listed(found: Any) -> bool:
    """Whether it is a class, and one that its module is listed for."""
    if not inspect.isclass(found):
        return False
    for module, kinds in _OF_A_KIND.items():
        if f"{found.__module__}.".startswith(f"{module}."):
            return issubclass(found, kinds)
    by_name = [module for module, names in _BY_NAME.items() if found.__name__ in names]
    return any(found is getattr(import_module(module), found.__name__, None) for module in by_name)


def _check_source(source: str) -> None:
    """Raises ForeignCode for the source of an EPyMARLCritic that is not allowed: it is run when the critic is built."""
    location = source.rpartition(":")[0] or source
    if location.endswith(".py"):
        files = [Path(name).resolve() for name in permissions() if name.endswith(".py")]
        is_allowed = Path(location).resolve() in files
    else:
        is_allowed = location in permissions() or _is_allowed(location)
    if not is_allowed:
        raise ForeignCode(source, location)


def denied_import(message: str) -> ForeignCode | None:
    """The refusal in a message of jsonargparse, if that is what it tells."""
    path = re.search(r"Importing '([\w.]+)' is not allowed", message)
    return ForeignCode(path[1], path[1].rpartition(".")[0]) if path else None


def _load_plain(text: str) -> Any:
    """jsonargparse's own way to read YAML, of text that ``check_yaml`` has nothing against."""
    check_yaml(text)
    return _load(text)
