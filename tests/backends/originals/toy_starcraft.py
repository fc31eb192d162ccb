"""In the place of StarCraft II's program: PySC2 starts it as ``SC2_x64 -listen HOST -port PORT …`` and talks to it in
the game's own protocol, protobuf messages over a websocket. It plays a toy of a battle.

Kept of the real one, as far as SMAC and SMACv2 rely on it: a map of SMAC has its units at the start and again as soon
as none is left, which the map's trigger does; 32x32_flat has only units that are asked for; units that are dead are
listed no more; the game does not end with a battle.
"""

import argparse
import os
import random
import sys
from itertools import count

from faults import happens
from s2clientprotocol import raw_pb2, sc2api_pb2
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

SIZE = 32
ATTACK, LOOPS_OF_A_STEP = 23, 8
DAMAGE, HEALTH = 15.0, 45.0
MARINE, ENEMY_MARINE = 1924, 48  # an ally's type is the map's own
UNIT_TYPES = 30  # in all, which SMACv2 counts


class Battle:
    """Allies in sight and reach of the enemies; who is told to attack hits, an enemy hits now and then."""

    def __init__(self, map_path: str, seed: int) -> None:
        self.empty = "32x32_flat" in map_path
        self.random = random.Random(seed)
        self.tags = count(1)
        self.units: list[raw_pb2.Unit] = []
        self.orders: dict[int, int] = {}
        self.loop = 0
        self.spawn()

    def spawn(self) -> None:
        if not self.units and not self.empty:
            for y in range(3):
                self.create(MARINE, 1, 10.0, 14.0 + y)
                self.create(ENEMY_MARINE, 2, 14.0, 14.0 + y)

    def create(self, unit_type: int, owner: int, x: float, y: float) -> None:
        unit = raw_pb2.Unit(tag=next(self.tags), unit_type=unit_type, owner=owner, health=HEALTH, health_max=HEALTH)
        unit.pos.x, unit.pos.y = min(max(x, 1.0), SIZE - 2.0), min(max(y, 1.0), SIZE - 2.0)
        self.units.append(unit)

    def kill(self, tags: list[int]) -> None:
        self.units = [unit for unit in self.units if unit.tag not in tags]

    def step(self, loops: int) -> None:
        self.loop += loops
        if loops >= LOOPS_OF_A_STEP:
            for attacker, target in self.orders.items():
                self.hit(attacker, target)
            for enemy in [unit for unit in self.units if unit.owner == 2]:
                allies = [unit.tag for unit in self.units if unit.owner == 1]
                if allies and self.random.random() < 0.3:
                    self.hit(enemy.tag, self.random.choice(allies))
            self.orders = {}
        self.spawn()

    def hit(self, attacker: int, target: int) -> None:
        if any(unit.tag == attacker for unit in self.units):
            for unit in self.units:
                if unit.tag == target:
                    unit.health = max(0.0, unit.health - DAMAGE)
            self.kill([unit.tag for unit in self.units if unit.health == 0.0])


class Game:
    """Answers requests, as far as SMAC and SMACv2 send them."""

    def __init__(self) -> None:
        self.status = sc2api_pb2.launched

    def answer(self, request: sc2api_pb2.Request) -> sc2api_pb2.Response:
        kind = request.WhichOneof("request")
        response = sc2api_pb2.Response(id=request.id)
        getattr(response, kind).SetInParent()
        getattr(self, kind)(getattr(request, kind), getattr(response, kind))
        response.status = self.status
        return response

    def ping(self, request, response) -> None:
        response.game_version = "toy"

    def create_game(self, request, response) -> None:
        self.map_path, self.seed = request.local_map.map_path, request.random_seed
        self.status = sc2api_pb2.init_game

    def join_game(self, request, response) -> None:
        response.player_id = 1
        self.battle = Battle(self.map_path, self.seed)
        self.status = sc2api_pb2.in_game

    def game_info(self, request, response) -> None:
        raw = response.start_raw
        raw.map_size.x = raw.map_size.y = raw.playable_area.p1.x = raw.playable_area.p1.y = SIZE
        raw.playable_area.p0.x = raw.playable_area.p0.y = 0
        raw.pathing_grid.bits_per_pixel, raw.pathing_grid.data = 1, b"\xff" * (SIZE * SIZE // 8)
        raw.terrain_height.bits_per_pixel, raw.terrain_height.data = 8, b"\x80" * (SIZE * SIZE)

    def data(self, request, response) -> None:
        for number in range(UNIT_TYPES):
            response.units.add(unit_id=number, name=f"unit {number}", available=True)

    def observation(self, request, response) -> None:
        response.observation.game_loop = self.battle.loop
        response.observation.raw_data.units.extend(self.battle.units)

    def action(self, request, response) -> None:
        for action in request.actions:
            command = action.action_raw.unit_command
            if command.ability_id == ATTACK:
                self.battle.orders.update(dict.fromkeys(command.unit_tags, command.target_unit_tag))
            response.result.append(1)

    def step(self, request, response) -> None:
        if request.count >= LOOPS_OF_A_STEP:
            happens("crash")
        self.battle.step(request.count)

    def debug(self, request, response) -> None:
        for command in request.debug:
            if command.HasField("kill_unit"):
                self.battle.kill(list(command.kill_unit.tag))
            elif command.HasField("create_unit"):
                unit = command.create_unit
                self.battle.create(unit.unit_type, unit.owner, unit.pos.x, unit.pos.y)

    def save_replay(self, request, response) -> None:
        response.data = f"{self.map_path} {self.battle.loop}".encode()

    def quit(self, request, response) -> None:
        os._exit(0)


def play(connection: ServerConnection) -> None:
    game = Game()
    try:
        while True:
            message = connection.recv(decode=False)  # PySC2 declares its bytes to be text
            connection.send(game.answer(sc2api_pb2.Request.FromString(message)).SerializeToString())
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-listen")
    parser.add_argument("-port", type=int)
    arguments, _ = parser.parse_known_args(sys.argv[1:])
    with serve(play, arguments.listen, arguments.port, max_size=None) as server:
        server.serve_forever()
