"""The autoscaler: observes queue and fleet, decides how many workers there should be, and launches or drains them.

One round is `loop.Autoscaler.tick`: observe (`observe`, `liveness`, `estimators`, `billing`), decide (`decide`,
`policies`), act (`launcher`, `drain`, `health`), report (`reporting`). `forecast` says when a batch will be done.
"""
