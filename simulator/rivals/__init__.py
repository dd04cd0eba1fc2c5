"""Policies of others, as their documentation or source describes them: to compare with, never for a real fleet."""
