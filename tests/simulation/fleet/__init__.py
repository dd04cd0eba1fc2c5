"""The fleet in simulated time: the controller's own decisions against traces of arrivals."""
