"""Handle a failure without try: `result(raise_on_failure=False)` returns the exception."""

from penstock import flow, task


@task
def my_task(fail):
    if fail:
        raise ValueError("no luck")
    return "I'm a task!"


@flow
def my_flow(fail=False):
    future = my_task.submit(fail)
    result = future.result(raise_on_failure=False)
    if future.state.is_failed():
        # `result` is an exception! handle accordingly
        print(f"failed: {result!r}")
    else:
        # `result` is the expected return value of our task
        print(f"returned: {result!r}")


if __name__ == "__main__":
    my_flow()
    my_flow(fail=True)
