"""Typed, small wrappers over AWS, and the embedded cloud that stands in for it on one machine."""
