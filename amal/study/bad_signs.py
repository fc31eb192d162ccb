"""Values of a run's metrics that are bad signs, as docs/metrics.md lists them. They are rules of thumb."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amal.runtime.argument_checks import LARGEST_COUNT
from amal.runtime.yaml_files import read_yaml

IGNORED_SHARE = 0.1  # of a run, at its beginning
OFTEN = 0.1  # share of updates from which on a value is told
_CLIPPED_AT = ("model", "init_args", "max_grad_norm")  # in config.yaml


class BadSign(NamedTuple):
    """What is bad about a metric.

    Attributes:
        metric: a column of metrics.csv.
        low: values below it are bad.
        high: values above it are bad; a text names a column, or ``max_grad_norm`` of the run's configuration.
        why: what it means.
        often: least share of the updates after the first tenth of the run.
    """

    metric: str
    low: float | None
    high: float | str | None
    why: str
    often: float = OFTEN

    @property
    def bounds(self) -> str:
        """'below 0', 'above 0.3' or both, as in docs/metrics.md."""
        low = None if self.low is None else f"below {self.low:g}"
        high = self.high if isinstance(self.high, str | None) else f"{self.high:g}"
        return " or ".join(filter(None, [low, None if high is None else f"above {high}"]))


BAD_SIGNS = (
    BadSign("train/entropy", 0.02, None, "the policy no longer explores"),
    BadSign("train/approx_kl", None, 0.05, "steps too large"),
    BadSign("train/clip_fraction", None, 0.3, "steps too large: most of the data says 'enough'"),
    BadSign("train/explained_variance", 0.0, None, "advantages are noise"),
    BadSign("train/policy_grad_norm", None, "max_grad_norm", "every step is clipped", often=0.9),
    BadSign("train/critic_grad_norm", None, "max_grad_norm", "every step is clipped", often=0.9),
    BadSign("train/model_obs_error_1", None, "train/model_obs_trivial_error_1", "the world model knows nothing"),
    BadSign("train/model_obs_error_5", None, "train/model_obs_trivial_error_5", "imagination is of no use"),
    BadSign("train/model_health_error_1", None, 1.0, "the world model knows nothing of fighting"),
    BadSign("train/model_position_error_1", None, 1.0, "the world model knows nothing of walking"),
    BadSign("train/isolation_kl", None, 0.0, "imagined data reaches the world model", often=0.0),
    BadSign("train/information_std", 0.001, None, "the bonus carries no signal"),
    BadSign("train/bonus_share", None, 0.5, "the team is paid for curiosity"),
    BadSign("train/replay_effective_share", 0.1, None, "a tenth of the batch does all the work"),
    BadSign("train/imagination_length", 1.5, None, "imagined battles end at once"),
    BadSign("train/imagined_steps", 1.5, None, "imagined battles end at once"),
    BadSign("train/auxiliary_diversity", 0.01, None, "auxiliary agents are copies of each other"),
    BadSign("train/auxiliary_distance", 0.005, 5.0, "auxiliary agents are copies of the policy, or of no use to it"),
    BadSign("train/auxiliary_diversity_to_first", 0.1, None, "evolution makes the auxiliary agents alike"),
)


class Found(NamedTuple):
    """A bad sign that a run shows.

    Attributes:
        share: of the updates after the first tenth of the run.
    """

    sign: BadSign
    share: float

    def __str__(self) -> str:
        return f"{self.sign.metric} is {self.sign.bounds} in {self.share:.0%} of updates: {self.sign.why}"


def find_bad_signs(metrics: pd.DataFrame, config: Mapping[str, Any]) -> list[Found]:
    """The bad signs in a run's metrics.csv.

    Args:
        metrics: its rows.
        config: the run's configuration; empty where there is none.
    """
    rows = metrics[metrics["env_steps"] >= IGNORED_SHARE * metrics["env_steps"].max()]
    found = []
    for sign in BAD_SIGNS:
        if sign.metric not in rows:
            continue
        values = rows[sign.metric].to_numpy(dtype=np.float64)
        low, high = limits(sign, rows, config)
        known = np.isfinite(values)
        bad = known & ((values < low) | (values > high))
        share = bad.sum() / max(known.sum(), 1)
        if bad.any() and share >= sign.often:
            found.append(Found(sign, float(share)))
    return found


def limits(sign: BadSign, rows: pd.DataFrame, config: Mapping[str, Any]) -> tuple[float, np.ndarray]:
    """The least good value, and the largest one of each row; infinite where there is no bound."""
    low = -np.inf if sign.low is None else sign.low
    high: Any = np.inf if sign.high is None else sign.high
    if sign.high == "max_grad_norm":
        arguments = (config.get("model") or {}).get("init_args") or {}
        high = arguments.get("max_grad_norm", np.inf)  # null is NaN, which nothing is above
    elif isinstance(sign.high, str):
        high = rows[sign.high].to_numpy(dtype=np.float64) if sign.high in rows else np.inf
    return low, np.broadcast_to(np.asarray(high, dtype=np.float64), len(rows))


def configuration(run: Path) -> dict[str, Any]:
    """config.yaml of a run; empty if there is none, as of a run of a script.

    Raises ValueError, whose message is one line, if it is broken as far as ``limits`` looks into it.
    """
    path = run / "config.yaml"
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        return {}
    value = content
    for depth, key in enumerate(_CLIPPED_AT):
        if value is None:
            return content or {}
        if not isinstance(value, dict):
            where = f"{path}: {'.'.join(_CLIPPED_AT[:depth])}".rstrip(": ")
            raise ValueError(f"{where} must be a mapping, got {reprlib.repr(value)}")
        value = value.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and abs(value) <= LARGEST_COUNT):
        raise ValueError(f"{path}: {'.'.join(_CLIPPED_AT)} must be a number, got {reprlib.repr(value)}")
    return content
