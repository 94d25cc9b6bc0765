"""What applications share whose examples are rows of numbers (floor 5)."""

from fewstep.supervised.application import SupervisedApplication as SupervisedApplication
