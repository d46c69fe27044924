"""The tests of this connector; those in `contract` are the same for every connector."""
