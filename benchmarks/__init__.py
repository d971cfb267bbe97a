"""What things cost, measured: each file is a command that prints a table."""
