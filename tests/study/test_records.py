"""Files of a run and of a study that hold something else than they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from amal.study.records import read_record
from tests.conftest import ROOT
from tests.study.studies import of, write_study


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("versions", [1], "versions must be a mapping to texts and numbers or nothing, got [1]"),
        ("versions", {"torch": [2]}, "versions must be a mapping to texts and numbers"),
        ("hardware", "x", "hardware must be a mapping to texts and numbers or nothing, got 'x'"),
        ("code_version", 5, "code_version must be a text or nothing, got 5"),
        ("simulator_hash", {}, "simulator_hash must be a text or nothing"),
        ("backend", ["embedded"], "backend must be a text or nothing"),
        ("random_delay", True, "random_delay must be a list of whole numbers or nothing, got True"),
        ("totals", {"env_steps": float("nan")}, "totals must be a mapping to numbers of at least 0"),
        ("evaluation", {"episodes": 32}, "evaluation must be a mapping of every_n_episodes, episodes and"),
        ("evaluation", {"every_n_episodes": 9, "episodes": 0, "test_episodes": 9}, "evaluation must be a mapping"),
        ("totals", {"env_steps": True}, "totals must be a mapping to numbers of at least 0"),
        ("seed", True, "seed must be a whole number, got True"),
        ("outcome", None, "outcome must be a text, got None"),
        (
            "totals",
            {"env_steps_per_second": 10**400},
            "mapping to numbers of at least 0 and at most 9,007,",
        ),
        (
            "scenario",
            "x/../../EVIL",
            "scenario must be a name of letters, digits, '_', '.' and '-', got 'x/../../EVIL'",
        ),
        ("scenario", "..", "scenario must be a name of letters"),
        ("scenario", "3m\n", "scenario must be a name of letters"),
        ("algorithm", "\x1b[2J", "algorithm must be a name of letters, digits, '_', '.' and '-', got '\\x1b[2J'"),
    ],
)
def test_a_record_of_a_wrong_type_is_a_broken_file(tmp_path: Path, key: str, value: object, words: str) -> None:
    write_study(tmp_path, scenarios=["3m"], seeds=2)
    path = tmp_path / "amal" / "3m" / "seed_1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert words in of(tmp_path).absent["amal", "3m", 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tuned_on", value) for value in (5, "3m", [3], {"3m": 1})),
        *(("scenarios", value) for value in ("3m", [["3m"]], None, ["../3m"])),
        *(("algorithms", value) for value in (["mappo"], {"mappo": "x"}, {"mappo": [{"path": 1}]}, {1: []})),
        *(("algorithms", value) for value in ({"../mappo": []}, {"\x1b[2J": []})),
        *(("names", value) for value in ({"mappo": "\x1b[2J"}, {"mappo": "two\nlines"}, {"mappo": " "})),
        *(("seeds", value) for value in (5, ["0"], [True])),
        *(("history", value) for value in ([], 5, [5], [{"code_version": 1}])),
        *(("baseline", value) for value in (5, ["mappo"])),
        *(("env_steps", value) for value in ("x", None, 1.5)),
        *(("overrides", value) for value in ("x", [5])),
        *(("created", value) for value in (5, None)),
        ("scenario_files", [1]),
    ],
)
def test_a_plan_of_a_wrong_type_is_one_line(tmp_path: Path, key: str, value: object) -> None:
    write_study(tmp_path, scenarios=["3m"], seeds=1)
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": []}}
    plan |= {"scenarios": ["3m"], "seeds": [0], "history": [{"code_version": "abc"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {key: value}))
    with pytest.raises(ValueError, match=f"study.yaml: {key} must be .*, got ") as error:
        of(tmp_path)
    assert "\n" not in str(error.value)


def test_the_published_plans_are_records() -> None:
    published = sorted((ROOT / "docs" / "results").glob("**/study.yaml"))
    assert len(published) > 5 and all(read_record(path.parent) is not None for path in published)
