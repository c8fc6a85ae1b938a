"""What people and partners can do at a node, one small class for each kind of thing."""
