"""What a master bears, and what its search takes for a proposal."""
