"""What problems whose model predicts share."""
