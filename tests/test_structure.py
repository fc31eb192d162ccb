"""The picture of the structure: ``docs/structure.py`` on a small checkout with a circle and an upward arrow."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CHECKOUT = {
    "amal/__init__.py": "",
    "amal/types.py": "",
    "amal/ops/__init__.py": "",
    "amal/ops/losses.py": "def loss():\n    from amal.networks import critics\n",  # upward, inside a function
    "amal/networks/__init__.py": "",
    "amal/networks/critics.py": "import amal.types\nfrom amal.networks import policies\nfrom amal.ops import losses\n",
    "amal/networks/policies.py": "from amal.networks import critics\nfrom amal.ops import losses\n",
    "callbacks/__init__.py": "from datamodules import rollout\n",
    "datamodules/__init__.py": "",
    "datamodules/rollout.py": "from amal.networks import policies\n",
    "cli.py": "COMMAND = 'callbacks'\n",  # imported by its name
}
FOUND = (
    "6 rooms, 5 floors, 6 arrows, 1 upward arrow (ops → networks), "
    "1 circle (amal.networks.critics ↔ amal.networks.policies ↔ amal.ops.losses)\n"
)


def draw(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "structure.py"), str(folder), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_checkout_is_drawn_and_told_in_one_line(tmp_path: Path) -> None:
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = draw(tmp_path, tmp_path / "structure.png")
    assert (done.returncode, done.stdout) == (0, FOUND), done.stderr
    assert (tmp_path / "structure.png").read_bytes()[:4] == b"\x89PNG"


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    done = draw(tmp_path, tmp_path / "structure.png")
    assert done.returncode == 2 and f"error: {tmp_path}: no cli.py in it, so no checkout" in done.stderr
