"""How far the simulator is from the real system: the same programs on both, with a profile of this very machine."""
