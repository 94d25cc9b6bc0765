"""What applications on rows of numbers share: the application, and its commands."""
