import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amal.networks.critics import EPyMARLCritic
from amal.runtime.source_files import load_class

STATE_DIM, OBS_DIM, N_AGENTS = 11, 7, 3
FILE = "tests/networks/epymarl_critics.py"


Cli = Callable[..., None]


def fit(cli: Cli, out: Path, source: str, *args: str) -> Path:
    critic = ("--model.critic", "amal.networks.EPyMARLCritic", "--model.critic.init_args.source", source)
    critic += ("--allow_code", source.rpartition(":")[0])
    data = ("--data.scenario", "3m", "--data.env_steps", "1000")
    cli("fit", "--config", "configs/mappo.yaml", *data, "--out", out, *critic, *args)
    return out


@pytest.fixture(autouse=True)
def _from_the_root(cli: Cli) -> None:
    """Paths are as typed in the repository's root."""


def build(source: str, individual: bool = False, hidden_size: int = 16) -> EPyMARLCritic:
    return EPyMARLCritic(STATE_DIM, OBS_DIM, N_AGENTS, source, 9, hidden_size, individual)


@pytest.mark.parametrize("individual", [False, True])
def test_gives_the_values_of_the_class_itself(individual: bool) -> None:
    """On [2, 6] steps, the same as the class gives two episodes of six steps."""
    critic = build(f"{FILE}:CentralVCritic", individual)
    state, obs = torch.randn(2, 6, STATE_DIM), torch.randn(2, 6, N_AGENTS, OBS_DIM)
    ids = torch.eye(N_AGENTS).expand(2, 6, -1, -1)
    parts = [state.unsqueeze(2).expand(-1, -1, N_AGENTS, -1), *([obs] if individual else []), ids]
    net = critic.critic
    hidden = net.fc2(net.fc1(torch.cat(parts, dim=-1)).relu()).relu()
    torch.testing.assert_close(critic(state, obs), net.fc3(hidden).squeeze(-1))


def test_arguments_reach_the_class() -> None:
    args = build(f"{FILE}:CentralVCritic", hidden_size=24).critic.args
    expected = {"n_agents": N_AGENTS, "n_actions": 9, "hidden_dim": 24}
    assert vars(args) == expected | {"obs_last_action": False, "obs_individual_obs": False}


def test_a_module_is_named_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "critics_of_mine.py").write_text(Path(FILE).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    assert build("critics_of_mine:CentralVCritic").critic.n_agents == N_AGENTS


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "critic.py").write_text(f"NAME = {folder!r}\nclass C:\n    def name(self): return NAME\n")
    first, second = (load_class(f"{tmp_path / folder}/critic.py:C")().name() for folder in ("a", "b"))
    assert (first, second) == ("a", "b")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "CentralVCritic",
            "source must be path/to/file.py:ClassName or package.module:ClassName, got 'CentralVCritic'",
        ),
        (f"{FILE}:", "source must be path/to/file.py:ClassName"),
        ("tests/nope.py:C", "there is no file tests/nope.py (looked for /"),
        ("no_such_module:C", "no_such_module cannot be imported: ModuleNotFoundError: No module named"),
        (
            f"{FILE}:CentralCritic",
            "tests/networks/epymarl_critics.py has no class 'CentralCritic' (did you mean CentralVCritic?)",
        ),
        (f"{FILE}:xyz", "has no class 'xyz' (its classes: CentralVCritic, DecentralVCritic, QCritic"),
        (f"{FILE}:NOT_A_CLASS", "has no class 'NOT_A_CLASS'"),
        (f"{FILE}:QCritic", "QCritic: a Q critic, output_type must be 'v', a value per agent, got 'q'"),
        (f"{FILE}:COMACritic", "COMACritic asks for 'actions_onehot': a Q critic, output_type must be 'v'"),
        (f"{FILE}:CentralVCriticNS", "CentralVCriticNS keeps networks where torch does not find them"),
        (f"{FILE}:HalfHiddenCritic", "HalfHiddenCritic keeps networks where torch does not find them"),
        (f"{FILE}:FlatCritic", "FlatCritic must return values [B, T, n_agents, 1] = [4, 1, 3, 1], got [4, 1, 3]"),
        (
            f"{FILE}:LastActionCritic",
            "LastActionCritic fails on a batch of zeros: KeyError: 'actions_onehot; the batch",
        ),
        (f"{FILE}:DecentralVCritic", "cannot be built from (scheme, args): NotImplementedError: needs obs_individual"),
        ("fractions:Fraction", "cannot be built from (scheme, args): TypeError"),
    ],
)
def test_mistakes_are_named_at_the_start(source: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        build(source)
    message = str(error.value)
    assert message.startswith("source") and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def (", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("class C:\n    def __init__(self, scheme, args): pass", "C must be a torch.nn.Module"),
        ("class C:\n    def __init__(self, scheme, args): args.gamma", "has no attribute 'gamma'"),
        ("class C:\n    def __init__(self, scheme, args): raise OSError('two\\nlines')", "OSError: two lines"),
    ],
)
def test_mistakes_inside_the_file_are_named(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ValueError) as error:
        build(f"{tmp_path}/broken.py:C")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_trains_by_the_command_line(cli: Cli, tmp_path: Path) -> None:
    run = fit(cli, tmp_path / "run", f"{FILE}:CentralVCritic")
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["critic.critic.fc1.weight"].shape[0] == 256
    individual = ("--model.critic.init_args.obs_individual_obs", "true")
    run = fit(cli, tmp_path / "own", f"{FILE}:DecentralVCritic", *individual)
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"


def test_the_command_line_names_the_mistake_in_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", f"{FILE}:CentralCritic")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1 and "did you mean CentralVCritic?" in message
    assert not (tmp_path / "run").exists()
