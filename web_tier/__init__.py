"""The web tier: takes images in, shows results, and decides how many workers there are.

An image comes in through `intake`, its result goes out through `results`; `pages` is for people, `api` for programs,
and `controller` runs beside them as a process of its own.
"""
