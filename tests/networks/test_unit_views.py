"""Views made of units are those that the battle shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.networks.unit_views import HP, UnitViews


def moments(scenario: str, steps: int = 40) -> tuple[UnitViews, list[tuple[Tensor, Tensor, Tensor]]]:
    """Observations, states and available actions of random battles, and views that have seen all of their paths."""
    battle = VectorBattle(scenario, 6, seed=1, auto_reset=False)
    views, rng, seen = UnitViews(battle.scenario), np.random.default_rng(0), []
    for _ in range(steps):
        shown = tuple(torch.from_numpy(x.copy()) for x in (battle.obs, battle.state, battle.available_actions))
        views.learn_paths(views.units(shown[1]), shown[2])
        seen.append(shown)
        battle.step(np.where(shown[2], rng.random(shown[2].shape), -1.0).argmax(axis=-1))
    return views, seen  # type: ignore[return-value]


@pytest.mark.parametrize("scenario", ["3m", "MMM", "corridor", "2s_vs_1sc"])
def test_what_is_seen_follows_from_units(scenario: str) -> None:
    views, seen = moments(scenario)
    for obs, state, available in seen:
        ours = views.see(views.units(state), views.last_actions(state))
        torch.testing.assert_close(ours[0], obs, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours[1], state, atol=0, rtol=0)
        assert torch.equal(ours[2], available)


@pytest.mark.parametrize("scenario", ["2s3z", "5m_vs_6m", "terran_5_vs_5", "protoss_5_vs_5"])
def test_only_the_rim_of_a_cell_can_be_mistaken(scenario: str) -> None:
    """States are float32: a unit on the line between two cells may be taken to stand in the other one."""
    views, seen = moments(scenario)
    for obs, state, available in seen:
        units = views.units(state)
        ours = views.see(units, views.last_actions(state))
        assert torch.equal(ours[2][..., [0, 1]], available[..., [0, 1]])
        assert torch.equal(ours[2][..., 6:], available[..., 6:])
        torch.testing.assert_close(ours[0][..., 4:], obs[..., 4:], atol=1e-6, rtol=0)
        wrong = (ours[2] != available).any(dim=-1)
        places = (units[:, : views.n_agents, 3:5] * 32)[wrong]
        assert ((places - places.round()).abs().amin(dim=-1) < 1e-4).all()


def test_a_healer_aims_at_allies_that_do_not_heal() -> None:
    views, seen = moments("MMM", steps=1)
    units = views.units(seen[0][1])
    index, may = views.targets(units)
    healers = views.heals(units)[0, : views.n_agents]
    assert healers.sum() == 1
    assert (index[0, healers] < views.n_agents).all()
    assert (index[0, ~healers] >= views.n_agents).all()
    aimed = index[0, healers][may[0, healers]]
    assert not views.heals(units)[0, aimed].any()
    units[:, aimed[0], HP] = 0.0
    assert views.targets(units)[1][0, healers].sum() == may[0, healers].sum() - 1


def test_agents_that_see_a_cone_are_refused() -> None:
    with pytest.raises(ValueError, match="cone"):
        UnitViews(replace(load_scenario("3m"), view_angle=120.0))
