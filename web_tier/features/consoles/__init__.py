"""The consoles of instances, for operators."""
