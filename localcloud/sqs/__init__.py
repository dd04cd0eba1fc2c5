"""SQS of the local cloud: queues, and their messages as rows of the store."""
