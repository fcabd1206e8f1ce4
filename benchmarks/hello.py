"""The smallest whole program, as the `hello` row runs it."""

from __future__ import annotations

from penstock import flow, task


@task
def greet(name: str) -> str:
    return f"Hello, {name}!"


@flow
def hello() -> None:
    print(greet.submit("world").result())


if __name__ == "__main__":
    hello()
