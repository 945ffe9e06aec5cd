"""RabbitMQ: the port `broker` on aiormq, and a model of it for the simulation."""
