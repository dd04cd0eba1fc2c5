"""Decide: how many workers there are to be, and why. Pure."""
