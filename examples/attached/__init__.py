"""A pipeline that knows nothing of Synchroscope, to be watched in attached mode."""
