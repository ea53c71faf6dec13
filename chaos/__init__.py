"""Faults, their injection, and the deterministic simulator."""
