"""Task families (floor 1): pure functions from (task, key) to an `Episode`. One family, one file."""
