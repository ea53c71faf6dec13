"""Stores that are not ours, one adapter a file; they are only ever read."""
