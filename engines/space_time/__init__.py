"""What STM and AFB-URR share: two encoders, a key and value head, a decoder, and a track with a bank per channel."""
