"""A replay as an MP4 film, if ffmpeg is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from amal.battle.battlefield import Scenario
from amal.runtime.atomic import replacing
from amal.viewer.replays import FRAME_MS, Replay


def has_ffmpeg() -> bool:
    return shutil.which("ffmpeg") is not None


def render_mp4(scenario: Scenario, units: np.ndarray, path: Path, title: str = "") -> None:
    """Film the battle recorded in units [T+1, U, 9], frame by frame as the GIF has it. OSError if ffmpeg fails."""
    replay = Replay(scenario, units, title)
    times = replay.times()
    width, height = replay.frame(times[0]).size
    # ffmpeg chooses the encoder: not every build has the same ones
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", f"1000/{FRAME_MS}"]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]  # what browsers and phones can play
    with replacing(path) as part:
        rest = ["-i", "-", *even, "-movflags", "+faststart", str(part)]
        command = ["ffmpeg", "-y", "-loglevel", "error", *source, *rest]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
            assert ffmpeg.stdin is not None and ffmpeg.stderr is not None
            try:
                for time, duration in zip(times, replay.durations(), strict=True):
                    picture = replay.frame(time).tobytes()
                    for _ in range(round(duration / FRAME_MS)):
                        ffmpeg.stdin.write(picture)
                ffmpeg.stdin.close()
            except BrokenPipeError:
                pass  # it has ended, and says below why
            complaint = ffmpeg.stderr.read().decode(errors="replace").strip().splitlines()
        if ffmpeg.returncode != 0:
            raise OSError(f"ffmpeg failed: {complaint[-1] if complaint else f'exit code {ffmpeg.returncode}'}")
