"""What is special about Pub/Sub."""
