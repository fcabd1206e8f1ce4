"""Executes the cells of one page in a real kernel: JSON in, a list of what each cell has printed, or its error, out."""

from __future__ import annotations

import json
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def shown(output: dict[str, object]) -> str:
    """The text of one output: what was printed, or the value of the cell."""
    if output["output_type"] == "stream":
        return str(output["text"]) if output["name"] == "stdout" else ""
    data = output.get("data", {})
    assert isinstance(data, dict)
    return f"{data.get('text/plain', '')}\n"


def main() -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in json.load(sys.stdin)]
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=60, kernel_name="python3")
    try:
        done = client.execute()
    except CellExecutionError as error:
        sys.exit(str(error))
    json.dump(["".join(map(shown, cell.outputs)) for cell in done.cells], sys.stdout)


if __name__ == "__main__":
    main()
