"""Era conversion at the rim, pure functions over bytes: the bus speaks 2026-07-28 only.

``requests``: params in and out. ``results``: bus → legacy client. ``upstream``: legacy upstream →
bus. ``errors``: the error object and HTTP status each era gets.
"""
