"""Linq's API over HTTP, and what its answers mean. Knows no database and no schedule."""
