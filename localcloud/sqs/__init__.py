"""SQS of the local cloud: queues whose messages are rows of the store."""
