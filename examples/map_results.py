"""The results of a whole map, in the order of its input: all at once, or future by future."""

from penstock import flow, task


@task
def some_task(x):
    return x * 10


@flow
def my_flow(some_iterable):
    futures = some_task.map(some_iterable)
    results = futures.result()
    assert results == [future.result() for future in futures]
    return results


if __name__ == "__main__":
    print(my_flow(range(5)))
