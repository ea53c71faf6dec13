"""The retail stream: real invoice lines as context events of four models."""
