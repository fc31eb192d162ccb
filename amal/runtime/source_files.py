"""Classes from files that are on no import path. Loading one runs its code: see ``amal.runtime.trusted_code``."""

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_class(source: str) -> type:
    """The class that ``path/to/file.py:ClassName`` or ``package.module:ClassName`` names; runs that file.

    Raises:
        ValueError: there is no such file, module or class, or the code fails when it is run.
    """
    location, _, class_name = source.rpartition(":")
    if not location or not class_name:
        raise ValueError(f"source must be path/to/file.py:ClassName or package.module:ClassName, got {source!r}")
    module = load_module(location)
    found = getattr(module, class_name, None)
    if isinstance(found, type):
        return found
    classes = [name for name, x in vars(module).items() if isinstance(x, type) and x.__module__ == module.__name__]
    match = difflib.get_close_matches(class_name, classes, n=1)
    hint = f"did you mean {match[0]}?" if match else f"its classes: {', '.join(classes) or 'none'}"
    raise ValueError(f"source: {location} has no class {class_name!r} ({hint})")


def load_module(location: str) -> ModuleType:
    """The module at a path that ends in .py, or with an importable name; ValueError if that fails."""
    path = Path(location).resolve()
    is_file = location.endswith(".py")
    if is_file and not path.is_file():
        raise ValueError(f"source: there is no file {location} (looked for {path})")
    try:
        return run_file(path) if is_file else importlib.import_module(location)
    except Exception as error:
        raise ValueError(f"source: {location} cannot be imported: {described(error)}") from error


def run_file(path: Path) -> ModuleType:
    """A module of its own for a file that is on no import path."""
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def described(error: Exception) -> str:
    """Kind and words of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
