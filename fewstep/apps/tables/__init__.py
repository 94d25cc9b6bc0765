"""Tables: one task for each value of a column; the targets are numbers or classes."""
