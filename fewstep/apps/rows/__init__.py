"""What applications on rows of numbers share: the application class, its commands and its figures."""
