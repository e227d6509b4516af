"""What a person asks for on the command line, and what they see of it."""
