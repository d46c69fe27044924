"""The behavioural pack: one module for each chapter of the contract; never edited."""
