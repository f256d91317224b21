"""Shares Linq contact cards into iMessage chats, at most once per chat per day."""

__version__ = "0.2.0"
