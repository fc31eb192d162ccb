"""The process that plays one battle: ``python -m amal.backends.worker FD``, started by ``process.Worker``.

It answers requests that come through a socket. It leads a process group of its own; when its standard input ends,
because the parent closed it or is no more, the whole group is killed: this process, hung or not, and whatever the
simulator started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from amal.backends.game import BackendError, Game

WAIT_FOR_THE_END = "read -r _; kill -KILL 0"  # 0 is the group


def main() -> None:
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    guard = subprocess.Popen(["/bin/sh", "-c", WAIT_FOR_THE_END])
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)  # the guard alone listens
    try:
        serve(connection)
    finally:
        guard.kill()
        guard.wait()


def serve(connection: Connection[Any, Any]) -> None:
    """Plays until it is told to close or something fails. Answers are pairs (what came of it, the result)."""
    game: Game | None = None
    try:
        while True:
            request, *arguments = connection.recv()
            if request == "start":
                game = start(*arguments)
                connection.send(("done", game.spec))
            elif request == "reset":
                assert game is not None
                connection.send(("done", game.reset()))
            elif request == "step":
                assert game is not None
                connection.send(("done", game.step(*arguments)))
            else:
                break
    except BackendError as error:
        connection.send(("unusable", str(error)))
    except EOFError:  # the parent is gone
        pass
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        if game is not None:
            _close(game, connection)


def _close(game: Game, connection: Connection[Any, Any]) -> None:
    try:
        game.close()
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            connection.send(("unclosed", f"{type(error).__name__}: {error}"))


def start(backend: str, scenario: str, seed: int, episode_limit: int | None, options: dict[str, Any]) -> Game:
    """The battle of that back end. Raises BackendError."""
    if backend == "smaclite":
        from amal.backends.smaclite import SMACliteGame

        return SMACliteGame(scenario, seed, episode_limit, options)
    if backend == "smacv2":
        from amal.backends.smacv2 import SMACv2Game

        return SMACv2Game(scenario, seed, episode_limit, options)
    from amal.backends.starcraft2 import StarCraft2Game

    return StarCraft2Game(scenario, seed, episode_limit, options)


if __name__ == "__main__":
    main()
