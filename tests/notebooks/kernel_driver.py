"""Executes a notebook in a kernel of its own, as a program: nbclient's threads and sockets stay out of the tests.

On standard input comes JSON: a list of sources, or the path of a notebook. On standard output goes JSON: for each code
cell the fields of a `Cell`. A cell that prints `READY` is interrupted.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

import nbformat
from kernels import READY, Cell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TIMEOUT = 50  # seconds for a cell


class Client(NotebookClient):
    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream" and READY in msg["content"]["text"]:
            asyncio.ensure_future(self.km.interrupt_kernel())  # type: ignore[union-attr]  # noqa: RUF006
        return super().process_message(msg, cell, cell_index)


def notebook_of(given: Any) -> Any:
    if isinstance(given, str):
        return nbformat.read(given, as_version=4)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in given])


async def execute(notebook: Any) -> list[dict[str, Any]]:
    client = Client(notebook, kernel_name="python3", timeout=TIMEOUT)
    found = []
    async with client.async_setup_kernel():
        for index, cell in enumerate(notebook.cells):
            try:
                await client.async_execute_cell(cell, index)
            except CellExecutionError:
                pass  # it is among the outputs
            if cell.cell_type == "code":
                found.append(told(cell.outputs))
    return found


def told(outputs: Any) -> dict[str, Any]:
    cell = Cell("", "", None, None, None, "")
    for output in outputs:
        if output.output_type == "stream":
            cell = cell._replace(**{output.name: getattr(cell, output.name) + output.text})
        elif output.output_type == "error":
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
            cell = cell._replace(error=f"{output.ename}: {output.evalue}", traceback=trace)
        else:
            cell = cell._replace(text=output.data.get("text/plain"), html=output.data.get("text/html"))
    return cell._asdict()


if __name__ == "__main__":
    json.dump(asyncio.run(execute(notebook_of(json.load(sys.stdin)))), sys.stdout)
