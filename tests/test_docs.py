"""What the documentation tells people to type."""

import re

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_run(page) -> None:  # type: ignore[no-untyped-def]
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(snippet, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    configs = re.findall(r"configs/[\w/]+\.yaml", text)
    missing = [name for name in links if not (page.parent / name).exists()]
    missing += [name for name in configs if not (ROOT / name).exists()]
    assert not missing
