"""The information bonus: what is paid, and when nothing is. Its equations are in tests/ops/test_bonus.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from amal.algorithms.amal import InformationBonus
from tests.algorithms.amal.test_algorithm import small
from tests.algorithms.episodes import random_batch


@pytest.mark.parametrize(
    ("options", "progress", "weight"),
    [({"form": "raw"}, 0.9, 0.3), ({"decay": 0.5}, 0.25, 0.15), ({"decay": 0.0}, 0.9, 0.3)],
    ids=["raw", "half decayed", "constant"],
)
def test_a_bonus_is_paid_for_each_step_that_happened(options: dict[str, Any], progress: float, weight: float) -> None:
    module, batch = small(), random_batch(0)
    batch = replace(batch, rewards=batch.rewards - 0.5)
    information = InformationBonus(**{"std_floor": 1e6, "cap": 1e6, **options})  # too large to scale or cap anything
    bonus, told = information.bonus(module.estimator, module.world_model, module.policy, batch, progress)
    nats = bonus / weight if information.form == "raw" else bonus / weight * 1e6 + told["train/information"]
    assert (bonus[~batch.mask] == 0).all() and (bonus[batch.mask] != 0).all()
    torch.testing.assert_close(nats[batch.mask].mean(), told["train/information"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(nats[batch.mask].std(correction=0), told["train/information_std"], rtol=1e-3, atol=0)
    share = bonus[batch.mask].abs().mean() / batch.rewards[batch.mask].abs().mean()
    torch.testing.assert_close(told["train/bonus_share"], share)


def test_where_nothing_is_earned_the_share_is_still_a_number() -> None:
    module, batch = small(), random_batch(0)
    batch = replace(batch, rewards=torch.zeros_like(batch.rewards))
    judges = (module.estimator, module.world_model, module.policy)
    _, told = InformationBonus(form="raw").bonus(*judges, batch, progress=0.0)
    assert told["train/bonus_share"].isfinite()


@pytest.mark.parametrize("options", [{"decay": 0.5}, {"lambda_info": 0.0, "form": "raw"}], ids=["decayed", "none"])
def test_without_weight_nothing_is_estimated(options: dict[str, Any]) -> None:
    nobody: Any = None  # who would be asked
    bonus, told = InformationBonus(**options).bonus(nobody, nobody, nobody, random_batch(0), progress=0.5)
    assert bonus is None and told["train/bonus_share"] == 0
    assert told["train/information"].isnan() and told["train/information_std"].isnan()


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("lambda_info", -0.1, r"at least 0\.0"),
        ("form", "big", "'shaped' or 'raw'"),
        ("decay", 1.5, r"in \[0, 1\]"),
        ("std_floor", 0.0, "greater than 0"),
        ("cap", -0.1, r"at least 0\.0"),
    ],
)
def test_arguments_are_checked(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be {allowed}, got"):
        InformationBonus(**{argument: value})
