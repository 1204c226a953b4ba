"""Timings, load and chaos runs. Not part of the tests."""
