"""What answers to single questions tell of a merge, and what it saves to ask fewer."""
