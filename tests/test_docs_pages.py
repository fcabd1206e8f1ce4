"""Every code block on every page runs, and gives what the page says it gives."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

import pages
from pages import DOCS, ROOT, Block, Desk, blocks_of

FILES = [*sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), "../README.md"]
BLOCKS = {name: blocks_of((DOCS / name).read_text("utf-8")) for name in FILES}
WITH_CODE = [name for name, blocks in BLOCKS.items() if any(block.runs for block in blocks)]

NOT_RUN = 2
"""Blocks that cannot run where the tests run. One more needs a good reason, which its first line gives."""

NOT_CODE = {"text", "eval"}


@pytest.mark.parametrize("name", WITH_CODE, ids=lambda name: name.removesuffix(".md").strip("./"))
def test_the_code_on_a_page_does_what_the_page_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "dashboard_api.md" and not (ROOT / "src/penstock/ui/static/index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    more = request.getfixturevalue("server").variables if name == "postgres.md" else None
    with Desk(tmp_path, more) as desk:
        for block in BLOCKS[name]:
            typed_elsewhere = name == "../README.md" and block.language == "console"  # see test_docs.py
            if (block.runs and not typed_elsewhere) or block.file is not None:
                desk.use(block)
        desk.run_cells()


def test_blocks_that_are_not_run_say_why_and_are_few() -> None:
    unrun = [block for blocks in BLOCKS.values() for block in blocks if "no-run" in block.flags]
    assert [block.code for block in unrun if not block.code.startswith("# needs ")] == []
    assert len(unrun) == NOT_RUN


@pytest.mark.parametrize("name", FILES, ids=lambda name: name.removesuffix(".md").strip("./"))
def test_all_blocks_are_of_a_kind_that_is_known(name: str) -> None:
    for block in BLOCKS[name]:
        assert block.language in {"python", "console", "toml", "json", "yaml", *NOT_CODE}, block
        assert block.flags <= {"no-run", "continued", "cell"}, block
        check_syntax(block)


def check_syntax(block: Block) -> None:
    if block.language == "python":
        compile(block.code, block.language, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    elif block.language == "json":
        json.loads(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)


class TestTheTest:
    """It fails where a page is wrong."""

    @pytest.mark.parametrize(
        "page",
        [
            "```python\nprint(1)  # 2\n```\n",
            "```python\nprint(1)\n```\n",
            "```python\n1 / 0\n```\n",
            "```console\n$ echo 1\n2\n```\n",
            "```console\n$ echo 1\n```\n",
            "```console\n$ false; echo $?\n0\n```\n",
            "`x.py`:\n\n```python\nprint(1)\n```\n\n```console\n$ python x.py\n2\n```\n",
        ],
    )
    def test_wrong(self, page: str, tmp_path: Path) -> None:
        with Desk(tmp_path) as desk, pytest.raises(AssertionError):
            for block in blocks_of(page):
                desk.use(block)

    def test_right(self, tmp_path: Path) -> None:
        page = """
`x.py`:

```python
print(1)
```

```console
$ cd .; false
$ echo $?
1
$ python x.py && echo \\
>   2 of 3 s
1
2 of 2.5 s
$ printf '1\\n2\\n3\\n'
1
...
3
```

```python
import os
a = 3
```

```python continued
os.system("echo 4")
print(a, __name__)
# 4
# 3 __main__
```
"""
        with Desk(tmp_path) as desk:
            for block in blocks_of(page):
                desk.use(block)

    def test_promises(self) -> None:
        assert pages.promised("for x in y:\n    print(x)  # 1\n    # 2\n") == ["1", "2"]
