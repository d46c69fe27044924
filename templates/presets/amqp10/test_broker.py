"""What is special about AMQP 1.0."""
