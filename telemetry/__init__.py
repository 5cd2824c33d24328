"""What the service says of itself: metrics, traces and its own output."""
