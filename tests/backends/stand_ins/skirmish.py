"""A little game of its own that the stand-ins play: nothing in it comes from this project, so that whoever mixes up
what the originals say is found out."""

import random

MAPS = {  # agents, enemies, limit
    "3m": (3, 3, 60),
    "2s3z": (5, 5, 120),
    "5m_vs_6m": (5, 6, 70),
    "10m_vs_11m": (10, 11, 150),
    "10gen_terran": (10, 10, 200),
}
HEALTH = 6
FIRST_TARGET = 6


class Skirmish:
    """Whoever is told to shoots an enemy, every enemy shoots anybody; the wind changes from episode to episode."""

    def __init__(self, name, seed, sizes=None):
        self.n_agents, self.n_enemies, self.limit = sizes or MAPS[name]
        self.random = random.Random(seed)

    def begin(self):
        self.allies, self.enemies = [HEALTH] * self.n_agents, [HEALTH] * self.n_enemies
        self.wind = self.random.random()
        self.steps, self.reward = 0, 0

    def play(self, actions):
        self.steps, self.reward = self.steps + 1, 0
        for agent, action in enumerate(actions):
            assert self.available(agent)[action], f"Agent {agent} cannot perform action {action}"
        for action in actions:
            target = action - FIRST_TARGET
            if target >= 0 and self.enemies[target] > 0 and self.random.random() < 0.8:
                self.enemies[target] -= 1
                self.reward += 1
        for health in self.enemies:
            living = [agent for agent, theirs in enumerate(self.allies) if theirs > 0]
            if health > 0 and living and self.random.random() < 0.3:
                self.allies[self.random.choice(living)] -= 1
        self.reward += 10 * self.won

    @property
    def won(self):
        return not any(self.enemies)

    @property
    def decided(self):
        return self.won or not any(self.allies)

    def available(self, agent):
        if self.allies[agent] == 0:
            return [1] + [0] * (FIRST_TARGET - 1 + self.n_enemies)
        return [0] + [1] * (FIRST_TARGET - 1) + [int(health > 0) for health in self.enemies]

    def obs(self, agent):
        return [agent / 10, self.allies[agent] / HEALTH, self.wind, *(health / HEALTH for health in self.enemies)]

    def state(self):
        return [self.wind, *(health / HEALTH for health in self.allies), *(-health / HEALTH for health in self.enemies)]
