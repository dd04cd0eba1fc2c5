"""The demo network: what it is trained on, what it looks like, and how it is trained."""
