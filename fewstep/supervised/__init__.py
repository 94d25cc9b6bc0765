"""What problems whose model predicts share (floor 3)."""
