"""SQS: queues, and sending, receiving and settling messages."""
