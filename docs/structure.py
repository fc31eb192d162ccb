"""Draws the house: its rooms on floors, and an arrow from each room to the rooms that it imports.

    python docs/structure.py [FOLDER] --out structure.png   # FOLDER is a checkout, by default this one

Prints one line: rooms, floors, arrows, upward arrows, and circles of modules.

A room is a folder of ``amal/`` or a module directly in it, and each of ``callbacks``, ``datamodules`` and ``cli``. An
arrow stands for all imports between two rooms, also those inside functions and those for types only. Rooms that import
each other in a circle are put in the order with the fewest upward arrows. A circle of modules is a strongly connected
component of the modules' imports, within a room or across rooms.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path

import grimp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.patheffects import withStroke

PACKAGES, ENTRY = ("amal", "callbacks", "datamodules"), "cli"
INK, IMPLIED, UPWARD, PAPER = "#333333", "#D4D4D4", "#D00000", "#DCE9F5"
Graph = dict[str, set[str]]  # what each module, or room, imports
Arrows = Counter[tuple[str, str]]  # importing and imported room: imports of modules


def module_imports(folder: Path) -> Graph:
    """The modules of a checkout and what each imports of the others."""
    sys.path.insert(0, str(folder))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # grimp reads packages only. The command line imports its commands by name, so a string counts if it is a module.
    tree = list(ast.walk(ast.parse((folder / f"{ENTRY}.py").read_text())))
    named = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in tree if isinstance(node, ast.ImportFrom)}
    named |= {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return imports | {ENTRY: named & imports.keys()}


def room_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "amal" and rest else first


def lines_of(folder: Path, room: str) -> int:
    places = [folder / room, folder / "amal" / room]
    files = [file for place in places for file in (*place.rglob("*.py"), place.with_suffix(".py")) if file.exists()]
    return sum(len(file.read_text().splitlines()) for file in files)


def reachable(graph: Graph) -> Graph:
    """What each imports, directly or through others."""
    reached = {name: set(imported) for name, imported in graph.items()}
    for through in reached:
        for name in reached:
            if through in reached[name]:
                reached[name] |= reached[through]
    return reached


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one member."""
    reached = reachable(graph)
    components = {frozenset(n for n in reached[name] if name in reached[n]) for name in reached}
    return sorted(sorted(component) for component in components if len(component) > 1)


def upward_arrows(arrows: Arrows, circle: list[str]) -> set[tuple[str, str]]:
    """The arrows from lower to higher rooms of a circle, in the order in which they are fewest, then stand for the
    fewest imports. Where that leaves a choice, the room with more importers lies lower."""
    importers = Counter(imported for _, imported in arrows)

    def upward(order: tuple[str, ...]) -> list[tuple[str, str]]:
        return [pair for pair in combinations(order, 2) if pair in arrows]

    def cost(order: tuple[str, ...]) -> tuple[int, int, int]:
        found = upward(order)
        height = sum(floor * importers[room] for floor, room in enumerate(order))
        return len(found), sum(arrows[pair] for pair in found), height

    return set(upward(min(permutations(circle), key=cost)))


def floors_of(graph: Graph) -> dict[str, int]:
    """One above the highest room that it imports, 0 where there is none."""
    floors = dict.fromkeys(graph, 0)
    for _ in graph:
        floors = {room: max((floors[imported] + 1 for imported in graph[room]), default=0) for room in graph}
    return floors


def places_of(floors: dict[str, int], graph: Graph) -> dict[str, tuple[float, float]]:
    """Where each room stands: spread over its floor's width, near the rooms that it imports or that import it."""
    rows = [sorted(room for room in floors if floors[room] == floor) for floor in range(max(floors.values()) + 1)]
    across = {room: (number + 0.5) / len(row) for row in rows for number, room in enumerate(row)}
    linked = {room: graph[room] | {other for other in graph if room in graph[other]} for room in graph}
    for _ in range(20):
        for row in rows:
            row.sort(key=lambda room: sum(across[other] for other in linked[room]) / max(1, len(linked[room])))
            across |= {room: (number + 0.5) / len(row) for number, room in enumerate(row)}
    # every other floor aside, so that arrows to lower floors pass between rooms and not behind them
    return {
        room: (across[room] + 0.08 * (-1) ** floors[room] / len(rows[floors[room]]) ** 0.5, floors[room])
        for room in floors
    }


def draw(
    lines: dict[str, int], places: dict[str, tuple[float, float]], arrows: Arrows, upward: set[tuple[str, str]]
) -> Figure:
    """Rooms as boxes whose area is their lines of code. Faint arrows follow from others."""
    down: Graph = {room: {b for a, b in arrows if a == room and (a, b) not in upward} for room in lines}
    beyond = reachable(down)
    height = max(y for _, y in places.values()) + 1
    figure = Figure(figsize=(11, 0.95 * height + 0.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, 12), ylim=(-0.5, height - 0.5))
    axes.axis("off")
    scale = 0.55 / max(lines.values()) ** 0.5
    boxes = {}
    for room, (x, y) in places.items():
        half = scale * lines[room] ** 0.5 / 2
        boxes[room] = Rectangle((11 * x - 3 * half, y - half), 6 * half, 2 * half, fc=PAPER, ec=INK, zorder=3)
        axes.add_patch(boxes[room])
        label = axes.text(
            11 * x, y - half - 0.03, f"{room} {lines[room]:,}", ha="center", va="top", fontsize=8.5, zorder=4
        )
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    for (high, low), imports in arrows.items():
        implied = any(low in beyond[other] for other in down[high])
        colour, order = (UPWARD, 5) if (high, low) in upward else (IMPLIED, 0) if implied else (INK, 1)
        ends = [(11 * places[room][0], places[room][1]) for room in (high, low)]
        axes.add_patch(
            FancyArrowPatch(*ends, patchA=boxes[high], patchB=boxes[low], arrowstyle="-|>", mutation_scale=9,
                            color=colour, lw=0.6 + 0.1 * imports**0.5, zorder=order,
                            connectionstyle="arc3,rad=0.08")
        )  # fmt: skip
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the rooms of a checkout and what imports what.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    given = parser.parse_args()
    if not (given.folder / f"{ENTRY}.py").is_file():
        parser.error(f"{given.folder}: no {ENTRY}.py in it, so no checkout")
    imports = module_imports(given.folder.resolve())
    between = [(room_of(module), room_of(other)) for module in imports for other in imports[module]]
    arrows = Arrows((high, low) for high, low in between if high != low and low != "amal")
    lines = {room: lines_of(given.folder, room) for room in map(room_of, imports) if room != "amal"}
    graph = {room: {low for high, low in arrows if high == room} for room in lines}
    upward = {arrow for circle in circles(graph) for arrow in upward_arrows(arrows, circle)}
    floors = floors_of({room: {low for low in graph[room] if (room, low) not in upward} for room in graph})
    found = [" ↔ ".join(circle) for circle in circles(imports)]
    told = (
        f"{len(lines)} rooms, {max(floors.values()) + 1} floors, {len(arrows)} arrows, "
        f"{listed(len(upward), 'upward arrow', [' → '.join(arrow) for arrow in sorted(upward)])}, "
        f"{listed(len(found), 'circle', found)}"
    )
    figure = draw(lines, places_of(floors, graph), arrows, upward)
    figure.suptitle(told, fontsize=9, color=INK)
    figure.savefig(given.out)
    print(told)


def listed(number: int, noun: str, names: list[str]) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" + (f" ({', '.join(names)})" if names else "")


if __name__ == "__main__":
    main()
