"""Schedules of faults: the controller's own autoscaler against a cloud that lags, refuses, forgets and breaks."""
