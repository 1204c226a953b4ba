"""A decode child that never says a word, as one that waits for a lock for ever."""

import sys

if __name__ == "__main__":
    sys.stdin.read()
