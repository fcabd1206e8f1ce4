"""Map over one argument; another one, not iterable, is the same for every element."""

from penstock import flow, task


@task
def add_together(x, y):
    return x + y


@flow
def sum_it(numbers: list[int], static_value: int):
    futures = add_together.map(numbers, static_value)
    return futures.result()


if __name__ == "__main__":
    resulting_sum = sum_it([1, 2, 3], 5)
    print(resulting_sum)
    assert resulting_sum == [6, 7, 8]
