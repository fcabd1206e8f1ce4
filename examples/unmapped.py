"""Map over one argument; another one is a list, too, but goes to every element as a whole."""

from penstock import flow, task, unmapped


@task
def sum_plus(x, static_iterable):
    return x + sum(static_iterable)


@flow
def sum_it(numbers, static_iterable):
    futures = sum_plus.map(numbers, unmapped(static_iterable))
    return futures.result()


if __name__ == "__main__":
    resulting_sum = sum_it([4, 5, 6], [1, 2, 3])
    print(resulting_sum)
    assert resulting_sum == [10, 11, 12]
