"""What came of a registration: figures, tables, results as files, pictures."""
