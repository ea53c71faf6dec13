"""Metrics and correlation: what the pipeline shows of itself."""
