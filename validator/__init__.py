"""Reference, comparison, location, classification, findings."""
