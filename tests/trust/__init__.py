"""Who may do what, and who finds out."""
