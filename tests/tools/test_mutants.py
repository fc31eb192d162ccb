"""The tool that changes functions to see whether tests notice."""

import ast

import yaml

from tests.tools.mutants import EQUIVALENT, ROOT, TESTS, functions_of, mutants_of, put_in

SOURCE = '''
LIMIT = 2

@decorated(x=1)
def f(x: int = 3, y: float | None = None) -> int:
    """Says 1 + 1."""
    if x < LIMIT:
        raise ValueError(f"{x + 1}")
    return -min(x, key=y)
'''


def test_every_spot_of_a_function_is_changed_and_nothing_else() -> None:
    tree = ast.parse(SOURCE)
    before = ast.unparse(tree)
    assert [mutant.name for mutant in mutants_of(tree)] == [
        "f: if not x < LIMIT:",
        "f: if x <= LIMIT:",
        "f: if x >= LIMIT:",
        "f: return min(x, key=y)",
        "f: return -max(x, key=y)",
        "f: return -min(x)",
    ]
    assert ast.unparse(tree) == before


def test_a_mutant_is_in_effect_wherever_the_function_is_held() -> None:
    import torch

    from amal.ops.cem import CrossEntropyMethod

    path = "amal/ops/cem.py"
    (number,) = (
        i
        for i, mutant in enumerate(mutants_of(ast.parse((ROOT / path).read_text())))
        if mutant.name == "CrossEntropyMethod.ask: return noise.mul_(self.std)"
    )
    functions, search = functions_of(path), CrossEntropyMethod(2, 3, 1.0, 0.1, 0.1)
    search.mean += 9.0
    try:
        put_in(path, number, functions)
        assert search.ask(torch.Generator()).abs().max() < 9  # though it is decorated
    finally:
        put_in(path, None, functions)
    assert search.ask(torch.Generator()).min() > 5


def test_whatever_is_listed_as_equivalent_is_a_mutant() -> None:
    listed = yaml.safe_load(EQUIVALENT.read_text())
    assert listed.keys() <= TESTS.keys()
    for path, reasons in listed.items():
        names = {mutant.name for mutant in mutants_of(ast.parse((ROOT / path).read_text()))}
        assert reasons.keys() <= names and all(reasons.values())
