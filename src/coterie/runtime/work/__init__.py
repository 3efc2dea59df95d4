"""What a peer does alone, as jobs: the same in a simulation and in a real peer. Only where they are done differs."""
