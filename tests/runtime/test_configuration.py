"""How configurations are read: what is typed wins, nothing vanishes, and what cannot be read is told in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from amal.runtime.configuration import files_first
from amal.runtime.yaml_files import BadYaml, parse_yaml

Cli = Callable[..., None]
MODEL = "model:\n  class_path: amal.algorithms.mappo.MAPPO\n"
SHORT = ("--data.scenario", "3m", "--data.env_steps", "100")
DEEP = "{a: "


def printed(cli: Cli, capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, dict[str, object]]:
    """The configuration that a command would run with."""
    with pytest.raises(SystemExit) as stop:
        cli(*args, "--print_config")
    assert not stop.value.code
    config: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return config


def refusal(cli: Cli, capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
    return message


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_what_is_typed_wins_over_files_wherever_it_stands(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(MODEL + "  init_args: {gamma: 0.5, lr: 0.1}\ndata: {scenario: 8m, env_steps: 5}\n")
    second.write_text("model: {init_args: {gamma: 0.6, clip_param: 0.3}}\nseed_everything: 3\n")
    typed = ("--data.scenario=2s3z", "--seed_everything", "7", "--model.lr", "0.2")
    files = ("--config", first, f"--config={second}")
    for args in ((*typed, *files), (*files, *typed), (*typed[:1], *files[:2], *typed[1:], *files[2:])):
        config = printed(cli, capsys, command, *args)
        assert config["data"]["scenario"] == "2s3z" and config["data"]["env_steps"] == 5
        assert config["seed_everything"] == 7
        learning = config["model"]["init_args"]
        assert isinstance(learning, dict)
        assert (learning["gamma"], learning["clip_param"], learning["lr"]) == (0.6, 0.3, 0.2)


def test_files_change_single_values_of_a_part_or_take_it_away(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    part = "model: {init_args: {information: {%s}}}\n"
    first.write_text(part % "lambda_info: 0.1, form: raw")
    second.write_text(part % "cap: 0.2")
    files = ("--config", "configs/amal_paper.yaml", "--config", first, "--config", second)
    parts = printed(cli, capsys, "fit", *files, "--model.information.decay", "0.4")["model"]["init_args"]
    assert {name: parts["information"][name] for name in ("lambda_info", "form", "cap", "decay", "std_floor")} == {
        **{"lambda_info": 0.1, "form": "raw", "cap": 0.2, "decay": 0.4, "std_floor": 0.1}
    }
    assert parts["auxiliaries"]["num_auxiliary_agents"] == 16
    without = printed(cli, capsys, "fit", *files, "--config", "configs/ablations/paper/no_information.yaml")
    assert without["model"]["init_args"]["information"] is None


def test_what_is_typed_wins_over_files_of_parts(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, critic = tmp_path / "data.yaml", tmp_path / "critic.yaml"
    data.write_text("scenario: 8m\nenv_steps: 5\nnum_envs: 2\n")
    critic.write_text("class_path: amal.networks.FiLMCritic\ninit_args: {hidden_size: 16}\n")
    args = (
        "--data.scenario",
        "2s3z",
        "--data",
        data,
        "--model.critic.init_args.hidden_size=8",
        "--model.critic",
        critic,
    )
    config = printed(cli, capsys, "fit", *args, "-c", "configs/mappo.yaml")
    assert (config["data"]["scenario"], config["data"]["num_envs"]) == ("2s3z", 2)
    learning = config["model"]["init_args"]
    assert isinstance(learning, dict)
    assert learning["critic"] == {"class_path": "amal.networks.FiLMCritic", "init_args": {"hidden_size": 8}}


def test_json_may_be_longer_than_the_name_of_a_file(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    critic = '{"class_path": "amal.networks.MAPPOCritic", "init_args": {"hidden_sizes": [' + "8, " * 200 + "8]}}"
    config = printed(cli, capsys, "fit", "--model.critic", critic, "--config", "configs/mappo.yaml")
    assert config["data"]["scenario"] is not None


def names(config: dict[str, Any]) -> list[str]:
    return [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]


def test_callbacks_of_several_files_add_up_and_one_that_drops_others_is_told(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick, own = "configs/quickstart.yaml", tmp_path / "own.yaml"
    of_quick = ["Pictures", "EarlyStopping"]
    for plus, expected in (("+", [*of_quick, "FinalTest", "Telemetry"]), ("", ["FinalTest", "Telemetry"])):
        own.write_text(f"trainer: {{callbacks{plus}: [callbacks.FinalTest]}}")
        typed = ("--config", quick, "--config", own, "--trainer.callbacks+=callbacks.Telemetry", "--print_config")
        with pytest.raises(SystemExit):
            cli("fit", *typed)
        told = capsys.readouterr()
        assert names(yaml.safe_load(told.out)) == expected
        note = f"note: {own}: trainer.callbacks replaces that of {quick}, so {', '.join(of_quick)} are gone"
        assert told.err == ("" if plus else f"{note}; write callbacks+ to add to it\n")
    with pytest.raises(SystemExit):
        cli("fit", "--config", quick, "--config", "configs/diagnosis.yaml", "--print_config")
    told = capsys.readouterr()
    assert names(yaml.safe_load(told.out)) == [*of_quick, "Diagnosis"] and told.err == ""


def test_lists_are_added_to_in_the_order_of_typing() -> None:
    args = ["--trainer.callbacks+=A", "--trainer.callbacks.x=1", "--trainer.callbacks+=B", "--config=c.yaml"]
    assert files_first(args) == ["--config=c.yaml", *args[:3]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MODEL + "trainer: {precision: 32}\ntrainer: {devices: 1}\n", "line 4: key 'trainer' is given twice, first in"),
        (MODEL + "data:\n  num_envs: 4\n  'num_envs': 8\n", "line 5: key 'num_envs' is given twice, first in line 4"),
        (MODEL + "# café\n", "line 3: not in UTF-8 (byte 0xe9)"),
        ((MODEL + "x: 1\n").encode("utf-16"), "line 1: not in UTF-8 (byte 0xff)"),
        ("model: " + DEEP * 3_000 + "1" + "}" * 3_000, "line 1: nested deeper than 64 levels"),
        ("model: " + "[" * 100_000 + "]" * 100_000, "line 1: nested deeper than 64 levels"),
        ("model: &a {b: *a}", "*a would contain itself"),
        ("model: !!python/object/apply:os.system [x]", "no YAML (could not determine a constructor"),
        ("model: [", "no YAML"),
        ("model: \0", "no YAML (unacceptable character #x0000"),
        ("", "empty, not a mapping"),
        ("# nothing\n", "empty, not a mapping"),
        ("- a\n", "holds ['a'], not a mapping"),
        ("hello", "holds 'hello', not a mapping"),
        (MODEL + "trainer:\n", "trainer must be a mapping of arguments: leave it out, or set something below it"),
        (MODEL + "  init_args:\n", "model.init_args must be a mapping of arguments: leave it out"),
        (MODEL + '  init_args: "x"\n', "model.init_args must be a mapping of arguments: got 'x'"),
        (MODEL + "trainer: {callbacks: [{class_path: a, init_args: 3}]}", "trainer.callbacks[0].init_args must be a"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, words: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    message = refusal(cli, capsys, "fit", "--config", file, *SHORT, "--out", tmp_path / "run")
    assert f"error: {file}: " in message and words in message and not (tmp_path / "run").exists()


def test_so_is_a_file_that_it_names(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, critic = tmp_path / "config.yaml", tmp_path / "critic.yaml"
    critic.write_text("class_path: amal.networks.MAPPOCritic\ninit_args: {}\ninit_args: {joint_obs: true}\n")
    file.write_text(MODEL + "  init_args: {critic: critic.yaml}\n")
    for args in (("--config", file), ("--config", "configs/mappo.yaml", "--model.critic", critic)):
        message = refusal(cli, capsys, "fit", *args, *SHORT)
        assert f"error: {critic}: line 3: key 'init_args' is given twice, first in line 2" in message
    text = '{"class_path": "amal.networks.MAPPOCritic", "class_path": "amal.networks.IPPOCritic"}'
    message = refusal(cli, capsys, "fit", "--config", "configs/mappo.yaml", *SHORT, "--model.critic", text)
    assert "key 'class_path' is given twice" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("share_parameters: null", "model.share_parameters: Expected a <class 'bool'>. Got value: None"),
        ("lr: null", "model.lr: Expected a <class 'float'>. Got value: None"),
        ("critic: null", "model.critic: Type collections.abc.Callable"),
        (
            "critic: {class_path: amal.networks.MAPPOCritic, init_args: {joint_obs: null}}",
            "model.critic.joint_obs: Expected a <class",
        ),
    ],
)
def test_null_is_no_value_where_one_is_needed(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{MODEL}  init_args: {{{content}}}\n")
    assert words in refusal(cli, capsys, "fit", "--config", file, *SHORT, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "key", ["checkpoint.keep_learning_state", "evaluation.every_n_episodes", "data.num_envs", "seed_everything"]
)
def test_null_is_refused_in_every_section(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    section, _, name = key.partition(".")
    file = tmp_path / "config.yaml"
    file.write_text(f"{section}: {{{name}: null}}\n" if name else f"{section}: null\n")
    message = refusal(cli, capsys, "fit", "--config", "configs/mappo.yaml", "--config", file, *SHORT)
    assert f"{key}: Expected a " in message


def test_null_stays_a_value_where_it_is_one(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MODEL + "  init_args: {n_step_returns: null}\ndata: {scenario: 3m, opponent: null}\n")
    assert "training needs a budget" in refusal(cli, capsys, "fit", "--config", file)


def test_a_budget_may_be_written_as_a_whole_float(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MODEL + "data: {scenario: 3m, env_steps: 1e6, num_envs: 64}\n")
    assert "num_envs must be at most episodes_per_update" in refusal(cli, capsys, "fit", "--config", file)
    file.write_text(MODEL + "data: {scenario: 3m, env_steps: 1.5}\n")
    assert "env_steps must be a whole number, got 1.5" in refusal(cli, capsys, "fit", "--config", file)


def test_keys_may_recur_in_other_mappings_and_anchors_be_used_again() -> None:
    assert parse_yaml("a: {x: 1}\nb: {x: &n 2}\nc: [{x: *n}, {x: *n}]") == {
        "a": {"x": 1},
        "b": {"x": 2},
        "c": [{"x": 2}, {"x": 2}],
    }
    with pytest.raises(BadYaml, match="line 3: key 'x' is given twice, first in line 2"):
        parse_yaml("a:\n- x: 1\n  x: 2\n")
