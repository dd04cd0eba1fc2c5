"""The web tier: accepts images, shows results, and scales the fleet.

`uploads` accepts images, `results` reads their results, `pages` is for people and `api` for programs. The controller
(`controller`, with `autoscaler`) is a separate process.
"""
