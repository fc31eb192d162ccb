"""No configuration runs code by itself, whatever it names, wherever in it and however it is written."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning import Trainer

from amal.algorithms.mappo import MAPPO
from amal.battle.scenario import load_scenario
from amal.runtime import trusted_code

Cli = Callable[..., None]
Spec = dict[str, Any]

MODEL: Spec = {"class_path": "amal.algorithms.mappo.MAPPO", "init_args": {}}
DATA: Spec = {"scenario": "3m", "env_steps": 100}
LOADERS = ("fit", "validate", "test", "replay", "enemy", "opponent")


class Malice:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


class Trap:
    """A folder with things that leave a mark when a configuration gets them imported or called, and somebody's run."""

    def __init__(self, folder: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.cli, self.capsys = folder, cli, capsys
        self.mark, self.victim = folder / "mark", folder / "victim"
        self.stranger = folder / f"stranger_{folder.name}.py"
        self.stranger.write_text(f"from pathlib import Path\nPath({str(self.mark)!r}).touch()\ndef run(): pass\n")
        self.pickle = folder / "pickle.ckpt"
        torch.save({"state_dict": Malice(self.mark)}, self.pickle)
        self.victim.mkdir()
        (self.victim / "run.json").touch()
        self.checkpoint = folder / "played" / "checkpoints" / "last.ckpt"
        self.checkpoint.parent.mkdir(parents=True)
        spec = load_scenario("3m").spec()
        torch.save({"state_dict": MAPPO(*self._sizes(spec)).state_dict()}, self.checkpoint)
        self.write(self.checkpoint.parent.parent / "config.yaml", {"model": MODEL, "data": DATA})

    @staticmethod
    def _sizes(spec: Any) -> tuple[int, int, int, int]:
        return spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim

    @property
    def baits(self) -> list[Spec]:
        """Each runs code, or deletes somebody's file, if it is called with its arguments or only imported."""
        touch, file = f"touch {self.mark}", str(self.stranger)
        shell = {"class_path": "os.system", "init_args": {"command": touch}}
        sizes = dict.fromkeys(("state_dim", "obs_dim", "n_agents", "n_actions", "hidden_size"), 1)
        loading = {"checkpoint_path": str(self.pickle), "weights_only": False}
        named = {
            "os.system": {"command": touch},
            "subprocess.getoutput": {"cmd": touch},
            "runpy.run_path": {"path_name": file},
            f"{self.stranger.stem}.run": {},
            "torch.load": {"f": str(self.pickle), "weights_only": False},
            "lightning.pytorch.cli.os.system": {"command": touch},
            "lightning.pytorch.cli.instantiate_class": {"args": touch, "init": {"class_path": "os.system"}},
            "lightning.fabric.utilities.cloud_io._load": {"path_or_url": str(self.pickle), "weights_only": False},
            "amal.algorithms.mappo.MAPPO.load_from_checkpoint": loading,
            "amal.runtime.source_files.run_file": {"path": file},
            "amal.runtime.source_files.load_module": {"location": file},
            "amal.networks.epymarl.build_critic": {"source": f"{file}:run", **sizes, "obs_individual_obs": False},
            "amal.networks.EPyMARLCritic": {"source": f"{file}:run"},
            "callbacks.telemetry.os.makedirs": {"name": str(self.mark)},
            "amal.commands.training_cli.discard_unbegun": {"folder": str(self.victim)},
        }
        baits = [{"class_path": name, "init_args": arguments} for name, arguments in named.items()]
        by = "lightning.pytorch.callbacks.LambdaCallback"
        return baits + [{"class_path": by, "init_args": {"setup": hook}} for hook in (shell, baits[-1])]

    @property
    def importable(self) -> list[Spec]:
        """Those that the import of listed modules cannot hold back."""
        listed = ("EPyMARLCritic", "build_critic")
        return [bait for bait in self.baits if any(name in str(bait) for name in listed)]

    def write(self, path: Path, content: Any) -> Path:
        path.write_text(yaml.safe_dump(content))
        return path

    def load(self, loader: str, config: Spec) -> tuple[int | None, str]:
        """Gives a configuration to a command; its exit code and what it says on stderr."""
        file = self.write(self.folder / "config.yaml", config)
        if loader in ("fit", "validate", "test"):
            args: tuple[Any, ...] = (loader, "--config", file)
            args += ("--out", self.folder / "run") if loader == "fit" else ()
        else:
            theirs = self.folder / "theirs" / "best.ckpt"  # beside its configuration
            theirs.parent.mkdir(exist_ok=True)
            theirs.write_bytes(self.checkpoint.read_bytes())
            self.write(theirs.with_name("config.yaml"), config)
            replay = ("replay", "--out", self.folder / "battle.html", "--ckpt_path")
            ours = ("fit", "--config", "configs/mappo.yaml", "--data.env_steps=100", "--out", self.folder / "run")
            args = {
                "replay": (*replay, theirs),
                "enemy": (*replay, self.checkpoint, "--opponent", theirs),
                "opponent": (*ours, "--data.opponent", theirs),
            }[loader]
        code = None
        try:
            self.cli(*args)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return code, self.capsys.readouterr().err

    @property
    def sprung(self) -> bool:
        return self.mark.exists() or not (self.victim / "run.json").exists()


@pytest.fixture
def trap(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trap:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("fit", "validate", "test"):  # what is built is built; it need not play
        monkeypatch.setattr(Trainer, name, functools.wraps(getattr(Trainer, name))(lambda *_, **__: None))
    return Trap(tmp_path, cli, capsys)


def placed(bait: Any, place: str) -> Spec:
    """A configuration with something in a place of it; ``_`` stands for the something, in a list or in a class."""
    model, trainer, data = {"class_path": MODEL["class_path"], "init_args": {}}, {}, dict(DATA)
    section, _, rest = place.partition(" ")
    if section == "AMAL":
        model["class_path"] = "amal.algorithms.amal.AMAL"
    if section in ("MAPPO", "AMAL"):
        model["init_args"] = _at(rest, bait)
    elif section == "trainer":
        trainer |= _at(rest, bait)
    elif section == "model":
        model = _at(rest, bait, model) if rest else bait
    else:
        data |= _at(rest, bait)
    return {"model": model, "trainer": trainer, "data": data}


def _at(path: str, bait: Any, around: Spec | None = None) -> Spec:
    value = bait
    for key in reversed(path.split(" ")):
        if key == "[]":
            value = [value]
        elif key[:1].isupper() or "." in key:
            value = {"class_path": key, "init_args": value}
        else:
            value = {key: value}
    return {**(around or {}), **value}


PLAYED = (  # places of what is played too, in a configuration beside a checkpoint
    "model",
    "model dict_kwargs",
    "model dict_kwargs critic",
    "MAPPO critic",
    "MAPPO policy",
    "MAPPO critic amal.networks.MAPPOCritic hidden_sizes",
    "MAPPO critic amal.networks.MAPPOCritic hidden_sizes []",
    "MAPPO lr",
    "AMAL world_model",
    "AMAL world_model model",
    "AMAL information",
    "AMAL information estimator",
    "AMAL critic",
    "AMAL unheard_of",
)
CALLED = ("MAPPO critic", "MAPPO policy", "AMAL world_model model", "AMAL information estimator")
BUILT = (
    *PLAYED,
    "trainer callbacks",
    "trainer callbacks []",
    "trainer callbacks [] lightning.pytorch.callbacks.LambdaCallback setup",
    "trainer callbacks [] lightning.pytorch.callbacks.ThroughputMonitor batch_size_fn",
    "trainer callbacks [] callbacks.Pictures battles",
    "trainer logger",
    "trainer logger [] lightning.pytorch.loggers.WandbLogger anything",
    "trainer logger lightning.pytorch.loggers.TensorBoardLogger anything",
    "trainer profiler",
    "trainer profiler lightning.pytorch.profilers.PyTorchProfiler schedule",
    "trainer profiler lightning.pytorch.profilers.PyTorchProfiler on_trace_ready",
    "trainer strategy",
    "trainer strategy lightning.pytorch.strategies.DDPStrategy ddp_comm_hook",
    "trainer strategy lightning.pytorch.strategies.DDPStrategy anything",
    "trainer plugins []",
    "trainer accelerator",
    "data backend_options anything",
    "data backend_options anything [] deeper",
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a mark stays, so there is nothing to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_nothing_in_a_configuration_is_run(trap: Trap, data: st.DataObject) -> None:
    bait: Any = data.draw(st.sampled_from(trap.importable) | st.sampled_from(trap.baits))
    for _ in range(data.draw(st.sampled_from([0, 0, 0, 1, 2]))):  # inside another, as an argument of it
        outer = data.draw(st.sampled_from(trap.baits))
        key = data.draw(st.sampled_from([*outer["init_args"], "init", "args"]))
        bait = {"class_path": outer["class_path"], "init_args": {**outer["init_args"], key: bait}}
    written = data.draw(st.sampled_from(["mapping", "mapping", "json", "file", "name", "list"]))
    if written == "json":
        bait = json.dumps(bait)
    elif written == "file":
        bait = str(trap.write(trap.folder / "part.yaml", bait))
    elif written == "name":
        bait = bait["class_path"]
    elif written == "list":
        bait = [bait]
    loader = data.draw(st.sampled_from(LOADERS))
    places = BUILT if loader in ("fit", "validate", "test") else PLAYED
    place = data.draw(st.sampled_from(CALLED) | st.sampled_from(places))
    code, said = trap.load(loader, placed(bait, place))
    assert not trap.sprung, (loader, place, bait)
    assert code in (None, 2) and "Traceback" not in said, said


LAMBDA = "trainer callbacks [] lightning.pytorch.callbacks.LambdaCallback setup"
FOR_EACH = [
    *(("fit", i, "MAPPO critic") for i in range(16)),
    ("fit", 6, LAMBDA),
    ("fit", 13, LAMBDA),
    *((loader, i, "MAPPO policy") for loader in LOADERS for i in (6, 13)),
    ("validate", 6, LAMBDA),
    ("test", 0, "trainer logger lightning.pytorch.loggers.WandbLogger anything"),
    ("fit", 0, "data backend_options anything"),
]


@pytest.mark.parametrize(("loader", "bait", "place"), FOR_EACH)
def test_each_bait_is_refused(trap: Trap, loader: str, bait: int, place: str) -> None:
    code, said = trap.load(loader, placed(trap.baits[bait], place))
    assert not trap.sprung and code == 2
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize("loader", LOADERS)
def test_without_the_check_after_parsing_it_would_run(trap: Trap, monkeypatch: pytest.MonkeyPatch, loader: str) -> None:
    monkeypatch.setattr("amal.runtime.configuration.check_code", lambda config: None)
    trap.load(loader, placed(trap.importable[0], "MAPPO critic"))
    assert trap.sprung


def test_without_the_bar_to_imports_it_would_run(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trusted_code._OF_A_KIND, trap.stranger.stem, (object,))
    trap.load("fit", placed(f"{trap.stranger.stem}.run", "MAPPO critic"))
    assert trap.sprung


def test_classes_that_are_meant_for_configurations_are_taken(trap: Trap) -> None:
    lightning = "lightning.pytorch"
    config: Spec = {
        "model": {
            "class_path": "MAPPO",
            "init_args": {"critic": "FiLMCritic", "policy": {"class_path": "amal.networks.GRUPolicy"}},
        },
        "data": DATA,
        "trainer": {
            "logger": [
                {"class_path": kind, "init_args": {"save_dir": ".", "name": name}}
                for kind, name in ((f"{lightning}.loggers.CSVLogger", "csv"), ("TensorBoardLogger", "board"))
            ],
            "callbacks": [{"class_path": "callbacks.Pictures"}, f"{lightning}.callbacks.LearningRateMonitor"],
            "profiler": {"class_path": f"{lightning}.profilers.SimpleProfiler"},
            "strategy": {"class_path": f"{lightning}.strategies.SingleDeviceStrategy", "init_args": {"device": "cpu"}},
            "plugins": [f"{lightning}.plugins.environments.LightningEnvironment"],
        },
    }
    assert trap.load("fit", config) == (None, "")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("OnExceptionCheckpoint", {"dirpath": "/"}), ("LambdaCallback", {})],
)
def test_callbacks_that_write_anywhere_or_call_functions_are_refused(trap: Trap, name: str, arguments: Spec) -> None:
    for path in (name, f"lightning.pytorch.callbacks.{name}"):
        config = placed([{"class_path": path, "init_args": arguments}], "trainer callbacks")
        code, said = trap.load("fit", config)
        assert code == 2 and f"lightning.pytorch.callbacks.{name} is no class that a configuration may name" in said


def test_a_config_is_read_from_this_machine_only(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec.filesystem("memory").pipe("/config.yaml", b"model: amal.algorithms.mappo.MAPPO\n")
    for url in ("memory://config.yaml", "http://127.0.0.1:9/config.yaml", "simplecache::memory://config.yaml"):
        with pytest.raises(SystemExit) as stop:
            cli("fit", "--config", url, "--data.scenario", "3m")
        assert stop.value.code == 2 and "File does not exist" in capsys.readouterr().err
