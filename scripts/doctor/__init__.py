"""``fleetsight doctor``: checks of the machine that runs Fleetsight, and of the cloud that it is configured for.

The modules import the standard library only, and the rest inside their functions: the command also runs before
Fleetsight is installed, and where an installation is damaged.
"""
