"""What decides: pure functions over records, bids and shares."""
