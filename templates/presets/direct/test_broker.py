"""What is special about a mesh."""
