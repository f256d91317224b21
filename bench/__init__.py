"""The benchmark: `python -m bench`, or `make bench`. It measures the worker beside what one would otherwise run."""
