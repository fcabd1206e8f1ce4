from penstock.store import owners as _owners  # noqa: F401  # first: see `owners.disown_all`
