"""Outside technology behind one Protocol each."""
