"""How far retention policies are from the best that could be done, on recorded agent programs."""
