"""UniRef++ (Wu et al. 2023)."""
