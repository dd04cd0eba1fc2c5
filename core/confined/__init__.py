"""Runs one function over bytes of strangers in processes that have nothing: what kills them kills nothing else.

`SandboxPool` (pool.py) hands bytes to a child process and takes the answer. A child is forked by a zygote, a process
that has loaded the function and nothing else. It was started afresh, or forked off before there was anything to keep
from it, and forgot the environment (forget.py): it holds no key, no socket and no memory of ours. It has no threads,
so that forking it is safe. A child can open nothing (no file, no socket), start nothing,
and take no more memory and processor time than it is allowed (limits.py). It serves many items, one after the other,
so what took one over could see the next: confinement protects everything else, not the items of one child from each
other.

====================  ==================================================================
what a child does     what becomes of its item; the next one has a fresh child
====================  ==================================================================
answers               the answer
refuses               `ImageRejectedError`, as the function raised it
takes too much time   `TooCostlyError`: processor time beyond its own limit
answers rubbish       `CrashedError`
dies, has no memory,  tried once more, alone; then `CrashedError` or `TooCostlyError`
or does not answer
====================  ==================================================================

A child may also die because the machine is short of memory, and not answer because it is short of processor time.
So the second try is made in a fresh child while no other child has an item: what happens then is the item's own.

Where no child can be had no item is at fault: `PoolUnavailableError`, and another try later.
"""
