"""asyncflow: an in-process, durable workflow engine for asyncio."""
