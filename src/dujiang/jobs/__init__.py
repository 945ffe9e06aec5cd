"""Jobs: durable work outside any transaction, with progress, a result, and an end that is counted."""
