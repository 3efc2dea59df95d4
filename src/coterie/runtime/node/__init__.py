"""Real peers: a node is one member of a federation, in a process of its own, on a machine of its own if need be."""
