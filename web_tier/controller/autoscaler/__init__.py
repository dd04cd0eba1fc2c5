"""The autoscaler: observe the queues and the fleet, decide with a pure function, apply what was decided."""
