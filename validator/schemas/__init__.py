"""Schemas of context types: registry, compatibility rules, and the check of every event."""
