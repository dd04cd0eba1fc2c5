"""The load generator: sends images as users' programs do, and compares each answer with the expected label."""
