"""Order tasks that exchange no data: c waits for a and b, d waits for c."""

from penstock import flow, task


@task
def task_a():
    print("a")


@task
def task_b():
    print("b")


@task
def task_c():
    print("c")


@task
def task_d():
    print("d")


@flow
def my_flow():
    a = task_a.submit()
    b = task_b.submit()
    # Wait for task_a and task_b to complete
    c = task_c.submit(wait_for=[a, b])
    # task_d will wait for task_c to complete
    # Note: If waiting for one task it must still be in a list.
    task_d(wait_for=[c])


if __name__ == "__main__":
    my_flow()
