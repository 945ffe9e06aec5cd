"""RabbitMQ as a drill has it: a model in memory that all simulated machines share."""
