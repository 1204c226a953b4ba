"""The maskstream service: API, queue, worker, command line."""
