"""Files: arrays, JSON, tables in and out, and where things are cached."""
