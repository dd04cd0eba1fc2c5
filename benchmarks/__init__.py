"""Measurements, each of which prints a table, writes JSON and knows the bars that it must hold."""
