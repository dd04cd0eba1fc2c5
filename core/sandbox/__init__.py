"""Runs one function over untrusted bytes in processes without rights: an item that kills its process harms no other.

`SandboxPool` (pool.py) sends an item to a child process and receives the reply. A child is forked by a zygote
(zygote.py), a process that has loaded the function and nothing else. The zygote is started as a new process, or
forked before its parent holds anything secret, and then scrubs its environment (limits.py): it has no key, no socket
and no memory of the parent. It has no threads, so it can be forked safely. A child cannot open a file or a socket and
cannot start a process, and its memory and CPU time are limited (limits.py). A child processes many items one after
the other, so an item that takes a child over could read the next ones and forge their replies. Therefore all of them
have the same owner: a user, or a job where the user is unknown. A child is replaced after a number of items.

====================  ==================================================================
a child               its item; the next item gets a new child
====================  ==================================================================
replies               the reply
rejects               `ImageRejectedError`, as the function raised it
exceeds its CPU time  `TooCostlyError`
replies invalidly     `CrashedError`
dies                  retried once, alone; then `CrashedError`
has no memory, or     retried once, alone; then `StarvedError`, a `TooCostlyError`
does not reply
====================  ==================================================================

A child may also die because the machine is short of memory, or not reply because the machine is short of CPU time. So
the retry runs in a new child while no other child has an item. If it starves again, another process of the machine
may still be the cause: the web tier asks for the image again. A worker has its machine to itself, and rejects it.

Networks run in children that may start threads and open files (`app_tier/network_process.py`): those have no secrets
and the limits of memory and time only.

If no child can be started, no item is at fault: `PoolUnavailableError`, and the caller tries again later.
"""
