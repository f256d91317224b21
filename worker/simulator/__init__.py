"""A stand-in for Linq's Partner API: to try the worker against, and the judge of its tests.

It shares nothing with the worker but the way to serve HTTP. Arrows: server -> controls -> deliveries -> webhooks
-> api -> account -> chats, faults, subscriptions; population fills an account.
"""
