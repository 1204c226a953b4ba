"""HTTP and WebSocket front end. Runs without torch."""
