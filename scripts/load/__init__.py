"""The load generator: sends images as users' programs do, and verifies each answer against what is expected."""
