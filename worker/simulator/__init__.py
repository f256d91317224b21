"""A stand-in for Linq's Partner API: to try the worker against, and the judge of its tests.

It shares nothing with the worker but the way to serve HTTP. Arrows: server -> api, controls -> account -> chats,
faults; population fills an account.
"""
