"""The settings that problems share, and the learners that are built from them."""
