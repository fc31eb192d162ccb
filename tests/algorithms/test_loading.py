"""An algorithm is brought back from a checkpoint alone, in Python, and plays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything

from amal.algorithms.amal import AMAL
from amal.algorithms.base import Algorithm
from amal.algorithms.mappo import MAPPO
from amal.networks import MLPPolicy
from amal.rollout.load_policy import load_player
from amal.runtime.checkpoints import CheckpointError
from amal.runtime.trusted_code import ForeignCode
from callbacks import Evaluation
from datamodules import RolloutDataModule
from tests.conftest import run_cli
from tests.runs import SHORT

OPTIONS = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def played(algorithm: Algorithm) -> torch.Tensor:
    """Greedy actions for made-up observations."""
    sizes = algorithm.hparams
    obs = torch.randn(4, sizes.n_agents, sizes.obs_dim, generator=torch.Generator().manual_seed(0))
    available = torch.ones(4, sizes.n_agents, sizes.n_actions, dtype=torch.bool)
    with torch.inference_mode():
        return algorithm.act(obs, available, algorithm.initial_hidden(4), None, 0.0)[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for config, args in {
        "mappo": ("--model.policy.hidden_sizes=[32]", "--model.critic=amal.networks.IPPOCritic"),
        "mappo_gru": (),
        "amal_paper": ("--model.auxiliaries.num_auxiliary_agents=2", "--model.world_model.steps=1"),
    }.items():
        run = ("--data.env_steps", "1", "--out", folder / config)
        run_cli("fit", "--config", f"configs/{config}.yaml", *SHORT, *run, *args)
    return folder


@pytest.mark.parametrize(
    ("config", "kind"), [("mappo", MAPPO), ("mappo_gru", MAPPO), ("amal_paper", AMAL), ("amal_paper", Algorithm)]
)
@pytest.mark.parametrize("name", ["best", "last"])
def test_it_acts_as_it_does_with_its_runs_configuration(
    runs: Path, tmp_path: Path, config: str, kind: type[Algorithm], name: str
) -> None:
    checkpoint = tmp_path / "alone.ckpt"  # far from its config.yaml
    checkpoint.write_bytes((runs / config / "checkpoints" / f"{name}.ckpt").read_bytes())
    loaded = kind.load_from_checkpoint(checkpoint)
    expected, _ = load_player(runs / config / "checkpoints" / f"{name}.ckpt")
    assert type(loaded) is type(expected) and not loaded.training
    assert torch.equal(played(loaded), played(expected))


def trained(folder: Path, **arguments: Any) -> tuple[MAPPO, RolloutDataModule, Path]:
    """By a script of a user."""
    seed_everything(0)
    data = RolloutDataModule("3m", episodes=4, episodes_per_update=4, num_envs=4)
    model = MAPPO(data.n_agents, data.n_actions, data.obs_dim, data.state_dim, **arguments)
    trainer = Trainer(callbacks=[Evaluation(4)], default_root_dir=folder, enable_checkpointing=False, **OPTIONS)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "mine.ckpt")
    return model.eval(), data, folder / "mine.ckpt"


def test_what_a_script_trained_comes_back_too(tmp_path: Path) -> None:
    model, data, checkpoint = trained(tmp_path, lr=1e-3, clip_param=0.1)
    loaded = MAPPO.load_from_checkpoint(checkpoint)
    assert loaded.hparams.lr == 1e-3 and loaded.clip_param == 0.1
    assert torch.equal(played(loaded), played(model))
    assert MAPPO.load_from_checkpoint(checkpoint, lr=1e-4).lr == 1e-4
    batches = Trainer(default_root_dir=tmp_path, **OPTIONS).predict(loaded, data)
    (found,) = Trainer(default_root_dir=tmp_path, **OPTIONS).validate(loaded, data, verbose=False)
    won = [won for batch in batches for won in batch.won.tolist()]
    assert len(won) == 32 and sum(won) / 32 == found["eval/win_rate"]


def test_a_function_of_a_script_has_to_be_given_again(tmp_path: Path) -> None:
    def narrow(*sizes: int) -> MLPPolicy:
        return MLPPolicy(*sizes, hidden_sizes=(16,))

    model, _, checkpoint = trained(tmp_path, policy=narrow)
    with pytest.raises(CheckpointError, match="policy was a function .* give it: load_from_checkpoint.*policy="):
        MAPPO.load_from_checkpoint(checkpoint)
    assert torch.equal(played(MAPPO.load_from_checkpoint(checkpoint, policy=narrow)), played(model))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda held: held.update(algorithm="os.system"), Algorithm, "os.system is code from outside the project"),
        (lambda held: held.update(policy={"class_path": "os.system"}), MAPPO, "os.system is code from outside"),
        (lambda held: held.update(policy="os.system"), MAPPO, "os.system is code from outside"),
        (lambda held: held.update(_instantiator="os.system"), MAPPO, "Option '_instantiator' is not accepted"),
        (lambda held: None, AMAL, "is of amal.algorithms.mappo.MAPPO and not of amal.algorithms.amal"),
        (lambda held: held.update(obs_dim=31), MAPPO, "does not fit the arguments of MAPPO: policy"),
        (lambda held: held.clear(), MAPPO, "does not tell how its algorithm was made"),
    ],
)
def test_a_strangers_checkpoint_runs_no_code(
    runs: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: type[Algorithm], words: str
) -> None:
    content = torch.load(runs / "mappo" / "checkpoints" / "best.ckpt", weights_only=True)
    change(content["hyper_parameters"])
    torch.save(content, tmp_path / "strange.ckpt")
    with pytest.raises((CheckpointError, ForeignCode), match=words):
        kind.load_from_checkpoint(tmp_path / "strange.ckpt")
