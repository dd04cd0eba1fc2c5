"""AWS in memory, one module for each API: the stand-in for tests that start no process, and for the simulations.

Each stand-in makes all its calls through a hook, by which a test injects the faults of one operation. The local cloud
is the other stand-in. `tests/integration/services` runs the same assertions against both, and against an emulator of
other people.
"""
