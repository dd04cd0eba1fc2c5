"""Typed, small wrappers over AWS services, each usable in another project."""
