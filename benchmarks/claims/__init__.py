"""The paper's claims: their criteria, and the code that decides them from what was measured."""
