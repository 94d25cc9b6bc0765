"""The cheapest models that a person would try first (floor 2): numpy and scikit-learn, no network, nothing of fewstep's own."""
