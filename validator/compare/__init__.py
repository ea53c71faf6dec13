"""Which keys do two stores not agree on? Any two stores, of any size, at rest or at work."""
