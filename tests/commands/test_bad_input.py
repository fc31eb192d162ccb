"""Bad input of ``fit`` is one line that names it, and leaves nothing."""

from pathlib import Path

import pytest

from tests.runs import Cli, fit


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--data.scenario", "mmm"), "unknown scenario 'mmm' (did you mean MMM?)"),
        (("--data.scenario", "2s3x"), "unknown scenario '2s3x' (did you mean 2s3z?)"),
        (("--data.num_envs", "x"), "data.num_envs"),
        (
            ("--config", "configs/amal.yaml", "--model.imagination.perfect", "true"),
            "imagination.perfect needs data.snapshots: true",
        ),
        (
            ("--config", "configs/amal.yaml", "--model.world_model", "null"),
            "imagination must be null without a world_model",
        ),
        (("--data.num_envs", "64"), "num_envs must be at most episodes_per_update (32), got 64"),
        (("--data.episodes", "10"), "env_steps and episodes are both set"),
        (("--model.lr", "-1"), "lr must be greater than 0, got -1.0"),
        (("--data.num_envs", "0"), "num_envs must be at least 1, got 0"),
        (("--data.num_envs", "2.5"), "data.num_envs"),
        (("--data.opponent", "nowhere.ckpt"), "nowhere.ckpt: no such file"),
        (("--data.opponent", "README.md"), "README.md: no configuration of its run: no config.yaml in"),
        (("--data.scenario", "5m_vs_6m", "--data.opponent", "x.ckpt"), "allies are 5 marine and the enemies 6 marine"),
        (("--data.episode_limit", "0"), "episode_limit must be at least 1, got 0"),
        (("--data.episodes_per_update", "-3"), "episodes_per_update must be at least 1, got -3"),
        (("--data.env_steps", "many"), "data.env_steps"),
        (("--data.env_steps", "-5"), "env_steps must be at least 1, got -5"),
        (("--data.random_delay", "3"), "random_delay must be true, false or [least, most], whole numbers"),
        (("--data.random_delay", "null"), "from -160 to 160, got None"),
        (("--data.random_delay", "yess"), "from -160 to 160, got 'yess'"),
        (("--data.random_delay", "[0.5, 1]"), "random_delay: expected [least, most], whole numbers"),
        (("--data.random_delay", "[4, 0]"), "from -160 to 160 in this order, got [4, 0]"),
        (("--data.senario", "3m"), "--data.senario 3m (did you mean --data.scenario?)"),
        (("--data.num_env", "4"), "--data.num_env 4 (did you mean --data.num_envs?)"),
        (("--evaluation.every_n_episodes", "-1"), "every_n_episodes must be at least 0, got -1"),
        (("--evaluation.every", "1"), "(did you mean --evaluation.every_n_episodes?)"),
        (("--checkpoint.every_seconds", "-1"), "every_seconds must be at least 0, got -1"),
        (("--seed_everything", "abc"), "seed_everything"),
        (("--seed_everything", "false"), "seed_everything must be between 0 and 4294967295, got False"),
        (("--seed_everything", "-1"), "seed_everything must be between 0 and 4294967295, got -1"),
        (("--seed_everything", "99999999999"), "seed_everything must be between 0 and 4294967295"),
        (("--data.scenario", ""), "unknown scenario ''"),
        (("--data.env_steps", "10.5"), "env_steps must be a whole number, got 10.5"),
        (("--config", "configs"), "configs"),
        (("--trainer.max_steps", "3"), "trainer.max_steps must stay -1, got 3: data.env_steps ends training"),
        (("--trainer.max_epochs", "0"), "trainer.max_epochs must stay 1, got 0"),
        (("--trainer.max_epochs", "7"), "trainer.max_epochs must stay 1, got 7"),
        (("--trainer.precision", "7"), "precision"),
        (("--trainer.precision", "16-mixed"), "trainer.precision must be 32-true or bf16-mixed, got 16-mixed"),
        (("--trainer.strategy", "ddpp"), "strategy='ddpp'"),
        (("--trainer.devices", "0"), "devices='0'"),
        (("--trainer.devices", "nine"), "devices"),
        (("--trainer.accelerator", "gpu"), "gpu"),
        (("--trainer.accelerator", "abacus"), "abacus"),
        (("--trainer.max_epoch", "2"), "(did you mean --trainer.max_epochs?)"),
        (("--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt"),
        (("--ckpt_path", "README.md"), "README.md: damaged or no checkpoint"),
        (("--weights_only", "false"), "weights_only: false is refused"),
        (("--model", "their.Algorithm"), "add --allow_code their"),
        (("--allow_code", "their code"), "--allow_code takes a package, a module or a file"),
        (("--config", "configs/nope.yaml"), "nope.yaml"),
        (("--config", "mapo"), "--config mapo: no such file, and no shipped config (did you mean mappo?)"),
        (("--config", "README.md"), "README.md"),
        (("--model", "MAPO"), "MAPO"),
        (("--model", "torch.nn.Linear"), "not correspond to a subclass of Algorithm"),
        (("--model.lrr", "1"), "'lrr' is not accepted (did you mean lr?)"),
        (("--model.lr", "fast"), "lr"),
        (("--model.lr", "nan"), "Got value: nan"),
        (("--model.lr", "1e400"), "lr must be a finite number, got inf"),
        (("--model.lr", "null"), "model.lr: Expected a <class 'float'>. Got value: None"),
        (("--model.gamma", "1.5"), "gamma must be in [0, 1], got 1.5"),
        (("--model.gae_lambda", "-0.5"), "gae_lambda must be in [0, 1], got -0.5"),
        (("--model.clip_param", "0"), "clip_param must be in (0, 1), got 0"),
        (("--model.entropy_coef", "-1"), "entropy_coef must be at least 0.0, got -1.0"),
        (("--model.max_grad_norm", "0"), "max_grad_norm must be greater than 0, got 0"),
        (("--model.value_loss", "l1"), "l1"),
        (("--model.n_epochs", "0"), "n_epochs must be at least 1, got 0"),
        (("--model.n_minibatch", "0"), "n_minibatch must be at least 1, got 0"),
        (("--model.n_minibatch", "64"), "n_minibatch must be at most episodes_per_update (32), got 64"),
        (("--model.n_step_returns", "0"), "n_step_returns must be at least 1, got 0"),
        (("--model.target_critic_tau", "2"), "target_critic_tau must be in (0, 1], got 2"),
        (("--model.critic", "amal.networks.FilmCritic"), "FilmCritic"),
        (("--model.critic", "MAPPOCritc"), "MAPPOCritc (did you mean MAPPOCritic?)"),
        (("--model.critic.init_args.hiden_sizes", "[8]"), "(did you mean hidden_sizes?)"),
        (("--model.critic.init_args.hidden_sizes", "[]"), "hidden_sizes must be one or more sizes"),
        (("--model.policy", "amal.networks.GRUPolicy", "--model.policy.init_args.hidden_size", "0"), "hidden_size"),
        (("--trainer.callbacks", "callbacks.Evolution"), "trainer.callbacks: every run has Evolution already"),
        (("--trainer.callbacks", "callbacks.Pictuers"), "'Pictuers' (did you mean Pictures?)"),
        (("--trainer.gradient_clip_val", "0.5"), "must stay null, got 0.5: model.max_grad_norm clips gradients"),
        (("--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"), "`Trainer` that has no logger"),
        (("--trainer", "3"), "trainer"),
        (("--ckpt_path", "configs"), "configs: is a folder"),
        (("--ckpt_path", ""), "--ckpt_path is empty (a variable that is not set?); leave it out or name a checkpoint"),
        (("--init_from", " "), "--init_from is empty (a variable that is not set?); leave it out or name a checkpoint"),
        (("--seed", "3"), "--seed 3 (did you mean --seed_everything?)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", *args)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model.informtion", "null"), "'informtion' is not accepted (did you mean information?)"),
        (("--model.information.lamda_info", "0"), "'lamda_info' is not accepted (did you mean lambda_info?)"),
        (("--model.information.lambda_info", "-1"), "model.information.lambda_info must be at least 0.0, got -1.0"),
        (("--model.information.lambda_info", "x"), "model.information.lambda_info: Expected a <class 'float'>"),
        (("--model.information.lambda_info", "null"), "model.information.lambda_info: Expected a <class 'float'>"),
        (("--model.information.form", "huge"), "model.information.form: Expected a typing.Literal['shaped', 'raw']"),
        (("--model.information", "3"), "model.information: "),
        (
            ("--model.information.estimator", "amal.ops.information.EnsembleInformationGain"),
            "world_model.ensemble_size must be at least 2 for EnsembleInformationGain, got 1",
        ),
        (("--model.information.estimator.n_sample", "9"), "model.information.estimator: Option 'n_sample' is not"),
        (("--model.world_model.buffer_size", "0"), "model.world_model.buffer_size must be at least 1, got 0"),
        (("--model.world_model.model.hiden_dims", "[8]"), "(did you mean hidden_dims?)"),
        (("--model.world_model.model.hidden_dims", "[x]"), "model.world_model.model.hidden_dims: Expected a <class"),
        (("--model.world_model", "null"), "information must be null without a world_model"),
        (("--model.replay", "null"), "auxiliaries must be null without replay"),
        (("--model.replay.aux_ratio", "2"), "model.replay.aux_ratio must be in [0, 1], got 2"),
        (("--model.auxiliaries.num_auxiliary_agents", "30"), "num_auxiliary_agents must be at most the elites"),
        (("--model.auxiliaries.cem_elite_fraction", "0"), "model.auxiliaries.cem_elite_fraction must be in (0, 1]"),
        (("--model.auxiliaries.distance_band", "[1, 0]"), "model.auxiliaries.distance_band must be two divergences"),
        (("--model.policy", "amal.networks.GRUPolicy"), "policy must be feed-forward for AMAL"),
        (("--trainer.callbacks+=callbacks.Evolution",), "trainer.callbacks: every run has Evolution already"),
        (
            ("--config", "configs/diagnosis.yaml", "--trainer.devices", "2"),
            "callbacks.Diagnosis is for training in one process, not in 2",
        ),
    ],
)
def test_bad_input_of_amal_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", *args, config="configs/amal_paper.yaml")
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [("--ckpt_path",), ("--ckpt_path", ""), ("--ckpt_path=",), ("--ckpt_path", "--out=x")]
)
def test_a_checkpoint_that_is_left_out_is_not_the_working_directory(
    cli: Cli, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("validate", *words)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: --ckpt_path is empty (a variable that")


def test_the_configuration_in_a_folder_is_pointed_to(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", tmp_path)
    told = f"error: --config {tmp_path}: is a folder (did you mean {tmp_path / 'config.yaml'}?)\n"
    assert stop.value.code == 2 and capsys.readouterr().err == told
