"""Wait for a submitted task and take its result."""

from penstock import flow, task


@task
def my_task():
    return 42


@flow
def my_flow():
    future = my_task.submit()
    result = future.result()
    print(result)


if __name__ == "__main__":
    my_flow()
