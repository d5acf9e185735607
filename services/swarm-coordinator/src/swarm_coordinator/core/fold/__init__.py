"""How each event changes the state. Called by ``evolve`` only."""
