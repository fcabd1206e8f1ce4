"""All of it or nothing: if a later task fails, what earlier ones have done is undone by their hooks."""

import tempfile
from pathlib import Path

from penstock import flow, task, transaction


@task
def write(path, text):
    path.write_text(text)


@write.on_rollback
def delete(txn):
    txn.get("path").unlink()
    print("deleted")


@task
def check(path):
    if "draft" in path.read_text():
        raise ValueError("not finished")


@flow
def publish(path, text):
    with transaction() as txn:
        txn.set("path", path)  # hooks see it
        write(path, text)
        check(path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.txt"
        state = publish(report, "a draft", return_state=True)
        print(f"{state.name}, the report is {'there' if report.exists() else 'not there'}")
        state = publish(report, "all of it", return_state=True)
        print(f"{state.name}, the report is {'there' if report.exists() else 'not there'}")
