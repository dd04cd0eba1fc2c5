"""Observe: what there is and what is known of it: queue, instances, workers, arrivals, boots, pace, and the bill."""
