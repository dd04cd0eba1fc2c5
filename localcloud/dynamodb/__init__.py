"""DynamoDB of the local cloud: calls on items are made on the rows of the store; moto has the tables."""
