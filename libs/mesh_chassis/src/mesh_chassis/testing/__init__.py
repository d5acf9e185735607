"""What tests stand on: a real broker with real rights, a clock that obeys, a leak check.

Installed with the extra ``testing``; nothing in the platform imports it.
"""
