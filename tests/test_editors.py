"""What an editor shows while somebody types, asked of the language server that most of them use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = '''
from penstock import flow, task

@task
def one(x: int, *, label: str = "a") -> int:
    """Add one."""
    return x

class Loader:
    @task
    async def load(self, path: str) -> bytes: ...

@flow
def main(loader: Loader) -> None:
    one.submit()
    one.with_options()
    loader.load.submit()
    future = one.submit(1)
'''


class Editor:
    """A client of the server, with one file open."""

    def __init__(self, file: Path) -> None:
        self._uri = file.as_uri()
        self._lines = file.read_text("utf-8").splitlines()
        command = [str(Path(sys.executable).with_name("pyright-langserver")), "--stdio"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._last = 0
        folder = {"uri": file.parent.as_uri(), "name": "project"}
        can = {"workspace": {"configuration": True}, "textDocument": {"hover": {"contentFormat": ["plaintext"]}}}
        self.ask("initialize", processId=None, rootUri=folder["uri"], capabilities=can, workspaceFolders=[folder])
        self._send(method="initialized", params={})
        document = {"uri": self._uri, "languageId": "python", "version": 1, "text": file.read_text("utf-8")}
        self._send(method="textDocument/didOpen", params={"textDocument": document})

    def at(self, method: str, line: str, after: str) -> Any:
        """Ask about the place behind the text `after`, in the line that begins with `line`."""
        (number,) = [n for n, text in enumerate(self._lines) if text.strip().startswith(line)]
        position = {"line": number, "character": self._lines[number].index(after) + len(after)}
        return self.ask(f"textDocument/{method}", textDocument={"uri": self._uri}, position=position)

    def ask(self, method: str, **params: Any) -> Any:
        self._last += 1
        self._send(id=self._last, method=method, params=params)
        while True:
            message = self._receive()
            if "method" in message:
                self._answer(message)
            elif message["id"] == self._last:
                return message["result"]

    def _answer(self, message: dict[str, Any]) -> None:
        if "id" in message:
            asked = message["method"] == "workspace/configuration"
            settings = [{"pythonPath": sys.executable} for _ in message["params"]["items"]] if asked else None
            self._send(id=message["id"], result=settings)

    def _send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._server.stdin is not None
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        size = 0
        while line := self._server.stdout.readline().strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        message: dict[str, Any] = json.loads(self._server.stdout.read(size))
        return message

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    file = tmp_path_factory.mktemp("project") / "example.py"
    file.write_text(TEXT, "utf-8")
    editor = Editor(file)
    yield editor
    editor.close()


def labels(items: Any) -> list[str]:
    return [item["label"] for item in (items["items"] if isinstance(items, dict) else items)]


@pytest.mark.parametrize(
    ("line", "after", "signature"),
    [
        ("one.submit()", "one.submit(", '(x: int, *, label: str = "a") -> Future[int]'),
        ("loader.load.submit()", "submit(", "(path: str) -> Future[bytes]"),
    ],
    ids=["function", "method"],
)
def test_the_parameters_of_submit_are_the_functions(editor: Editor, line: str, after: str, signature: str) -> None:
    shown = editor.at("signatureHelp", line, after)
    assert shown["signatures"][shown["activeSignature"]]["label"] == signature


def test_keywords_are_completed(editor: Editor) -> None:
    offered = labels(editor.at("completion", "one.submit()", "one.submit("))
    assert {"x=", "label=", "wait_for=", "return_state="} <= set(offered)
    offered = labels(editor.at("completion", "one.with_options()", "with_options("))
    assert {"name=", "retries=", "retry_delay_seconds=", "timeout_seconds=", "cache_policy=", "tags="} <= set(offered)


def test_what_is_shown_under_the_pointer(editor: Editor) -> None:
    assert editor.at("hover", "future =", "fut")["contents"]["value"] == "(variable) future: Future[int]"
    assert "Add one." in editor.at("hover", "one.submit()", "on")["contents"]["value"]
    shown = editor.at("hover", "future =", "one.sub")["contents"]["value"]
    assert 'label: str = "a"\n) -> Future[int]' in shown and "Start a run in the background" in shown
