"""Pure ASGI middleware, outermost first: lingering close, request id and headers, access, rate limit, body limits."""
