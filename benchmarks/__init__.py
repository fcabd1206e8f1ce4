"""What penstock costs, against the bare primitives, measured in the same run: `python -m benchmarks`."""
