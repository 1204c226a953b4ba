"""Network blocks shared by the engines: nn.Module only, no state of any video."""
