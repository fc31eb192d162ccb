"""The configurations that come with the package, by name from any folder."""

from __future__ import annotations

from pathlib import Path

CONFIGS = (Path(__file__).resolve().parents[1] / "configs").resolve()  # in a checkout a link to the root's


def config_file(word: str) -> Path:
    """The file that a word names: a path, or a shipped configuration.

    ``mappo``, ``scenario/8m`` and ``configs/mappo.yaml`` name shipped ones; a file that is there under that path comes
    first. Where there is neither, the path comes back as it was given.
    """
    path = Path(word)
    if is_file(path):
        return path
    inside = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    shipped = CONFIGS / (inside if inside.suffix else f"{inside}.yaml")
    return shipped if is_file(shipped) else path


def shipped_names() -> list[str]:
    """The names that ``config_file`` knows, such as ``mappo`` and ``scenario/8m``."""
    return sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))


def is_file(path: Path) -> bool:
    """Whether it is one; False for text that is too long for a name, such as JSON."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
