"""What is allowed: rules as pure functions, from facts to decisions."""
