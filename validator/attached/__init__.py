"""Topics and stores that are not ours: a reference folded from the log, and looks at stores."""
