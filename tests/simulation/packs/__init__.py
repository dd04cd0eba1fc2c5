"""Packs before the product has them: the rules of the new data path as small writers, played under every fault.

The writers (`web`, `worker`, `controller`) depend on the services and the rules alone. World, checks and histories
depend on what a writer stores, not on how it works. So the product's own code can replace the writers.
"""
