"""The fleet simulator: the controller's own decisions, and those of other autoscalers, against traces."""
