"""Pure ASGI middleware, outermost first: request id and headers, access, rate limit, body limits."""
