"""Campaigns: the whole system, while calls fail and processes die; then every image is checked."""
