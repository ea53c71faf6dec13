"""Composition of roles, HTTP API and the `synchroscope` command: the one place that joins parts."""
