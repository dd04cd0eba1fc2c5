"""SQS of the local cloud: queues that lose and repeat no message, direct calls, and message move tasks."""
