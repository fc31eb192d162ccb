"""Stand-ins for the originals, and a look at the processes that they leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STAND_INS = Path(__file__).parent / "stand_ins"


class StandIns:
    """The originals as the workers find them, and what goes wrong in them."""

    def __init__(self, faults: Path) -> None:
        self.faults = faults

    def let_happen(self, kind: str, times: int = 1) -> None:
        for number in range(times):
            (self.faults / f"{kind}.{number}").touch()

    def processes(self) -> list[str]:
        """Names of all that run: workers, their guards and games. They know each other by their environment."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and str(self.faults).encode() in (folder / "environ").read_bytes():
                    name = (folder / "comm").read_text().strip()
                    found.append("python" if name.startswith("python") else name)
            except OSError:  # it has ended meanwhile, or is another user's
                continue
        return sorted(found)

    def soon(self, number: int, seconds: float = 5.0) -> bool:
        """Whether within that time there are exactly so many workers, each with a guard and a game, and no others."""
        expected = sorted(number * ["python", "sh", "sleep"])
        deadline = time.monotonic() + seconds
        while self.processes() != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.processes() == expected

    def ended(self) -> bool:
        """Whether all of them soon end."""
        return self.soon(0)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    """All originals, with StarCraft II and its maps. Afterwards nothing of them may be running."""
    faults, game = tmp_path / "faults", tmp_path / "StarCraftII"
    faults.mkdir()
    (game / "Versions" / "Base75689").mkdir(parents=True)
    (game / "Versions" / "Base75689" / "SC2_x64").touch(0o755)
    (game / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in ("3m", "2s3z", "10m_vs_11m", "32x32_flat"):
        (game / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", str(game))
    monkeypatch.setenv("STAND_IN_FAULTS", str(faults))
    for folder in (STAND_INS, STAND_INS / "starcraft2", STAND_INS / "smacv2", STAND_INS / "smaclite"):
        monkeypatch.syspath_prepend(str(folder))
    found = StandIns(faults)
    yield found
    assert found.ended(), f"left running: {found.processes()}"


def options_of(backend: str) -> dict[str, Any]:
    """What that original cannot do without, on a map with units of its own."""
    return {"capability_config": {"n_units": 5, "n_enemies": 5}} if backend == "smacv2" else {}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leaves one of the stand-ins on the path, or none."""

    def choose(name: str) -> None:
        import sys

        monkeypatch.setattr(sys, "path", [p for p in sys.path if STAND_INS not in (Path(p), *Path(p).parents)])
        if name:
            monkeypatch.syspath_prepend(str(STAND_INS / name))

    return choose
