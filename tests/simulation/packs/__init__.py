"""Packs before the product has them: the rules of the new data path as small writers, played under every fault.

The writers (`web`, `worker`, `controller`) know the services and the rules alone. The world, the checks and the
histories know no writer's inside, so the product's own code can take the writers' place.
"""
