"""Command line: ``amal COMMAND`` where it is installed; ``python cli.py COMMAND`` is the same from a checkout.

fit, validate and test are LightningCLI's; the study commands have parsers of their own and never build a Trainer.
"""

from __future__ import annotations

import gc
import resource
import sys
from importlib import import_module
from types import ModuleType

import amal  # before torch: it sets how MKL rounds
from amal.runtime.output import lost_output, make_output_last
from amal.runtime.program import program
from amal.runtime.versions import code_version

OVERVIEW = """usage: {program} COMMAND [options]

  fit         train: --config mappo --data.scenario 3m --data.env_steps 300000 --seed_everything 0
  validate    play greedy episodes with a checkpoint: --ckpt_path RUN/checkpoints/best.ckpt
  test        the same with more episodes, on battles that no evaluation plays
  compare     train algorithms on scenarios with several seeds: --algorithms mappo amal --scenarios 3m 2s3z --seeds 5
              --env_steps 300000 --out runs/study
  sweep       search a configuration: --config mappo --space sweep/mappo --trials 40
              --scenarios 3m 2s3z --env_steps 100000 --out runs/sweep
  replay      watch a battle: --ckpt_path RUN/checkpoints/best.ckpt --out battle.gif (or .mp4, or .html to look closer)
  plot        draw learning curves and metrics of runs, and tell what is a bad sign: RUN RUN --out plot.pdf
  report      write what a study found, as a page, figures and tables: runs/study --baseline mappo
  scenarios   list the scenarios, or say what agents see and do in one: 2s3z
  bench       measure how fast battles and training are on this machine: --algorithms mappo amal

COMMAND --help tells its options, --version the version. A config is a file or the name of a shipped one. fit, validate,
test, compare, sweep, replay and bench refuse to run code of others that a configuration names, unless it is allowed by
--allow_code NAME."""

ACTIVATE = "make train installs all that is needed into .venv: source .venv/bin/activate"
TRAINER_COMMANDS = ("fit", "validate", "test")
MODULES = {  # of the commands; each has a main(args)
    **dict.fromkeys(TRAINER_COMMANDS, "amal.commands.fit"),
    "compare": "amal.commands.compare",
    "sweep": "amal.commands.sweep",
    "replay": "amal.commands.replay",
    "plot": "amal.commands.plot",
    "report": "amal.commands.report",
    "scenarios": "amal.commands.scenarios",
    "bench": "amal.commands.bench",
}


def main(args: list[str] | None = None) -> None:
    make_output_last()
    try:
        run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:  # before anything listens to it; training does and saves
        sys.exit(130)
    if (why := lost_output()) is not None:
        print(f"error: standard output: {why}", file=sys.stderr)
        sys.exit(1)


def run(args: list[str]) -> None:
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(OVERVIEW.format(program=program()))
    elif command == "--version":
        print(f"amal {amal.__version__} ({code_version()})")
    elif command in MODULES:
        imported(MODULES[command]).main(args if command in TRAINER_COMMANDS else args[1:])
    else:
        import difflib

        match = difflib.get_close_matches(command, MODULES, n=1)
        hint = f" (did you mean {match[0]}?)" if match else ""
        print(f"error: unknown command {command!r}{hint}; known: {', '.join(MODULES)}", file=sys.stderr)
        sys.exit(2)


def imported(name: str) -> ModuleType:
    """A module, kept from the garbage collector: to look through half a million objects that stay, again and again and
    once more when the process ends, takes longer than a second where Lightning is among them."""
    gc.disable()
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        print(f"error: {sys.executable} has no {error.name}; {ACTIVATE}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # whatever a module makes of the memory that it does not get
        if (limit := memory_limit()) is None:
            raise
        told = " ".join(str(error).split()) or "out of memory"
        print(f"error: cannot start with {limit} MiB of address space (ulimit -v): {told}", file=sys.stderr)
        sys.exit(1)
    gc.freeze()
    gc.enable()
    return module


def memory_limit() -> int | None:
    """MiB of address space that this process may have, or None for as much as there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit // 2**20


if __name__ == "__main__":
    main()
