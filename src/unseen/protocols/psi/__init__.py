"""Private set intersection: parties learn which of their items all of them hold."""
