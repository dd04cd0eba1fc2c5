"""A model bundle: a network and all that is needed to ask it, in one folder. Built once, checked before each use."""
