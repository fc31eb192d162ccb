"""The ``replay`` command: a battle of a checkpoint's greedy policy, to watch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from amal.commands.arguments import OneLineParser, add_code_option, path_argument, refusing
from amal.runtime.program import program

if TYPE_CHECKING:  # --help must not wait for what plays and draws
    from amal.viewer.action_recorder import ChosenActions
    from amal.viewer.recording import Recording

SUFFIXES = (".gif", ".mp4", ".html")


class BadOutput(ValueError):
    """A file that cannot be written; the message says why."""


def main(args: list[str]) -> None:
    options = _parser().parse_args(args)
    with refusing(options.out):
        check_output(options.out)
        summary = play_and_draw(options)
    print(f"{options.out}: {summary}")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} replay",
        allow_abbrev=False,
        description="Play one battle with a checkpoint's greedy policy and make a GIF, an MP4 or a web page of it. The "
        "page plays in any browser and shows the probability or the value of each action of each unit.",
    )
    parser.add_argument(
        "--ckpt_path", type=path_argument, required=True, metavar="FILE", help="RUN/checkpoints/best.ckpt"
    )
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="FILE", help=f"its suffix decides: {', '.join(SUFFIXES)}"
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help="the run's configuration (default: config.yaml, above the checkpoint's folder or in it)",
    )
    parser.add_argument(
        "--opponent",
        type=path_argument,
        metavar="FILE",
        help="checkpoint of the enemies' policy (default: they follow a script)",
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="of the battles (default %(default)s)")
    parser.add_argument(
        "--battle", type=_natural, default=0, metavar="K", help="which of that seed's battles (default %(default)s)"
    )
    add_code_option(parser)
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def check_output(out: Path) -> None:
    """Raises BadOutput if nothing can be written there. Before the battle, which takes longer."""
    if out.suffix not in SUFFIXES:
        raise BadOutput(f"--out {out}: the suffix must be one of {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise BadOutput(f"--out {out}: is a folder")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadOutput(f"--out {out}: cannot write into {folder}")
    if out.suffix == ".mp4":
        from amal.viewer.film import has_ffmpeg

        if not has_ffmpeg():
            raise BadOutput(f"--out {out}: an MP4 needs ffmpeg, which is not installed; .gif and .html do not")


def play_and_draw(options: argparse.Namespace) -> str:
    """Plays the battle and draws it; a summary of it. Raises ValueError or OSError."""
    from amal.rollout.collector import record_battle
    from amal.rollout.load_policy import load_opponent, load_player
    from amal.runtime.trusted_code import allow_only
    from amal.viewer.action_recorder import ActionRecorder
    from amal.viewer.recording import STEP_SECONDS, Recording

    allow_only(options.allow_code)
    module, scenario = load_player(options.ckpt_path, options.config)
    opponent, title = None, f"{type(module).__name__} · {options.ckpt_path.name}"
    if options.opponent is not None:
        opponent = load_opponent(options.opponent, scenario)
        title += f" against {type(opponent).__name__} · {options.opponent.name}"
    actor = ActionRecorder(module)
    recording = Recording(*record_battle(actor, scenario, options.seed, options.battle, opponent))
    title += f" · battle {options.battle} of seed {options.seed}"
    _write(recording, actor.chosen(), options.out, title)
    return f"{recording.outcome} after {recording.steps} steps ({recording.steps * STEP_SECONDS:.1f} s)"


def _write(recording: Recording, chosen: ChosenActions, out: Path, title: str) -> None:
    if out.suffix == ".html":
        from amal.viewer.player import write_html

        write_html(recording, chosen, out, title)
    elif out.suffix == ".mp4":
        from amal.viewer.film import write_mp4

        write_mp4(recording, out, title)
    else:
        from amal.viewer.film import write_gif

        write_gif(recording, out, title)
