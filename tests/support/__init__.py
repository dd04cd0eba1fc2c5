"""Fakes, builders and waiting that tests of several folders share."""
