"""Linq: its API over HTTP, and what its answers mean; nothing about databases, days or who is due."""
