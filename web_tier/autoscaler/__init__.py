"""The autoscaler: observes queue and fleet, decides how many workers there should be, and launches or drains them.

One round is `loop.Autoscaler.tick`: observe (`observe`, `liveness`, `estimators`, `billing`), decide (`decide`,
`policies`), act (`launcher`, `drain`, `health`), report (`reporting`). `playback` is a model of the fleet in which
`forecast` plays decisions forward.
"""
