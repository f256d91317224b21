"""Lets `python -m worker` do what `share-worker` does."""

from worker.cli import main

main()
