"""The policies that are compared, each as its source has it."""
