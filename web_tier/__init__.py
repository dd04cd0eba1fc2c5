"""The web tier: accepts images, shows results, and scales the fleet.

`uploads` accepts images, and `results` reads their results. `pages` is for people, `api` for programs, and each
folder of `features` for both. Every request passes `http`, and `auth` says who may send it. The controller
(`controller`, with `autoscaler`) is a separate process.
"""
