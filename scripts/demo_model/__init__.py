"""The demo network: what it is trained on, what it looks like, and how it is trained."""

from typing import Final

DEMO_NAME: Final = "demo"
"""What the model of the drawn signs is called, in its bundle and in commands."""
