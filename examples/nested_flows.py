"""Each flow has one task runner, so a nested flow is the way to use a second one."""

from penstock import flow, task
from penstock.task_runners import SequentialTaskRunner


@task
def hello(name: str):
    print(f"Hello {name}!")


@flow  # implicitly uses the default task runner, ThreadPoolTaskRunner
def concurrent_nested_flow():
    marvin = hello.submit("marvin")
    ford = hello.submit("ford")
    marvin.wait(), ford.wait()


@flow(task_runner=SequentialTaskRunner())
def sequential_nested_flow():
    hello.map(["one", "two", "three"]).wait()


@flow  # implicitly uses the default task runner, ThreadPoolTaskRunner
def parent_flow():
    concurrent_nested_flow()
    sequential_nested_flow()


if __name__ == "__main__":
    parent_flow()
